"""The one door to torchvision: `from wbc_common.vision import torchvision`.

The registry's torchvision is a CUDA build. Beside a CPU torch its compiled operators do not load, and the import ends
in "operator torchvision::nms does not exist" although transforms and models, all that is used here, need none of them.
On that RuntimeError alone the two missing operators are declared, without an implementation, and the import is
repeated; calling `nms` itself still fails. torchvision is imported on first use of the name, so that importing this
module costs nothing.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    import torchvision as torchvision

_MISSING_OPERATOR = "operator torchvision::nms does not exist"
_SIGNATURES = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
# torch drops the declarations when their Library object is collected.
_declared: list["torch.library.Library"] = []


def __getattr__(name: str) -> Any:
    """`torchvision` on first use (PEP 562), then cached as a plain attribute of this module."""
    if name != "torchvision":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = _import_torchvision()
    return globals()[name]


def _import_torchvision() -> ModuleType:
    try:
        return _with_transforms()
    except RuntimeError as error:
        if _MISSING_OPERATOR not in str(error):
            raise
    _declare_missing_operators()
    for half_imported in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[half_imported]
    return _with_transforms()


def _with_transforms() -> ModuleType:
    # `import torchvision` alone leaves transforms.v2 out.
    importlib.import_module("torchvision.transforms.v2")
    return sys.modules["torchvision"]


def _declare_missing_operators() -> None:
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for signature in _SIGNATURES:
        library.define(signature)  # type: ignore[no-untyped-call]
    _declared.append(library)
