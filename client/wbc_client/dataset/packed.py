"""Cells in one .safetensors file: decoded once, opened by memory map, no pickle; in-silico clinics are written so.

It holds the tensors of a CellSet (images as read, before white balance; the domain where there is one) and, as
metadata, what they mean: the class registry's digest and the image size. A file made for other classes is refused: its
columns would be mistaken silently.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from wbc_client.dataset.cell_set import SPLITS, CellSet
from wbc_common.arrays_file import arrays_as_file
from wbc_common.cells import Registry
from wbc_common.errors import DataError
from wbc_common.files import write_atomically
from wbc_common.study import ImageSettings

_NUM_AXES = {"images": 4, "allowed": 2, "groups": 1, "split": 1}
_DTYPES = {"images": torch.uint8, "allowed": torch.bool, "groups": torch.int64, "split": torch.int64}
_OPTIONAL = {"domain": torch.int64}
_FIELD = "field_um"
_REMEDY = "pack the cells again for this study, or correct data.path"


def packed_metadata(registry: Registry, images: ImageSettings) -> dict[str, str]:
    """What a packed file must say for a study: classes, size of the images, and their field in µm where it is told."""
    told = {"registry": registry.name, "registry_digest": registry.digest, "size_px": str(images.source_px)}
    return told if images.field_um is None else {**told, _FIELD: f"{images.field_um:g}"}


def write_packed(cells: CellSet, path: Path, metadata: Mapping[str, str], *, mode: int = 0o644) -> None:
    """Write the cells; a reader never sees half a file, and equal cells give equal bytes.

    Args:
        cells: with images before white balance.
        path: the .safetensors file; replaced where it exists.
        metadata: at least `packed_metadata`.
        mode: of the file, from its first byte on.
    """
    tensors = {name: getattr(cells, name) for name in (*_DTYPES, *_OPTIONAL)}
    present = {name: tensor.numpy() for name, tensor in tensors.items() if tensor is not None}
    write_atomically(path, *arrays_as_file(present, metadata), mode=mode)


def read_packed(path: Path, expected: Mapping[str, str] | None = None) -> CellSet:
    """The cells of a packed file.

    Args:
        path: the .safetensors file.
        expected: metadata that the file must carry, see `packed_metadata`.

    Raises:
        DataError: it cannot be read, was made for other classes or sizes, or its tensors do not fit together.
    """
    try:
        with safe_open(path, framework="pt") as file:
            _check_metadata(path, file.metadata() or {}, expected or {})
            missing = sorted(set(_DTYPES) - set(file.keys()))
            if missing:
                raise DataError(f"packed file {path} lacks {', '.join(missing)}", remedy=_REMEDY)
            names = (*_DTYPES, *(name for name in _OPTIONAL if name in file.keys()))  # noqa: SIM118 (no mapping)
            cells = CellSet(**{name: file.get_tensor(name) for name in names})
    except (OSError, SafetensorError) as error:
        raise DataError(f"packed file {path} cannot be read: {error}", remedy=_REMEDY) from error
    _check_tensors(path, cells)
    _check_size(path, cells, (expected or {}).get("size_px"))
    return cells


def _check_metadata(path: Path, found: Mapping[str, str], expected: Mapping[str, str]) -> None:
    told = {_FIELD: None, **expected} if expected else {}  # cells cut to a field are none of a plan without one
    for key, value in told.items():
        if found.get(key) != value:
            raise DataError(f"packed file {path} has {key} {found.get(key)}; expected {value}", remedy=_REMEDY)


def _check_tensors(path: Path, cells: CellSet) -> None:
    for name, dtype in _DTYPES.items():
        tensor = getattr(cells, name)
        if tensor.dtype != dtype or tensor.ndim != _NUM_AXES[name] or len(tensor) != len(cells):
            got, expected = f"{tensor.dtype} {tuple(tensor.shape)}", f"{dtype} with {_NUM_AXES[name]} axes"
            raise DataError(f"packed file {path}: {name} is {got}; expected {expected}, N first", remedy=_REMEDY)
    domain = cells.domain
    if domain is not None and (
        domain.dtype != torch.int64 or domain.shape != cells.groups.shape or bool((domain < 0).any())
    ):
        raise DataError(f"packed file {path}: domain is no int64 [N] from 0", remedy=_REMEDY)
    if cells.images.shape[1] != 3 or not cells.allowed.any(dim=1).all():
        raise DataError(f"packed file {path}: images need 3 channels, cells at least one class", remedy=_REMEDY)
    if len(cells) and not 0 <= int(cells.split.min()) <= int(cells.split.max()) < len(SPLITS):
        raise DataError(f"packed file {path}: split outside 0 … {len(SPLITS) - 1}", remedy=_REMEDY)


def _check_size(path: Path, cells: CellSet, size_px: str | None) -> None:
    if size_px is not None and tuple(cells.images.shape[2:]) != (int(size_px), int(size_px)):
        got = " × ".join(str(extent) for extent in cells.images.shape[2:])
        raise DataError(f"packed file {path} has images of {got} pixels; expected {size_px}", remedy=_REMEDY)
