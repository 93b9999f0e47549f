"""Where a network's initial weights lie, and what their file says of itself; `wbc_common.weights` loads them.

They are in a local .safetensors or .pth file, in one of those we ship (`phantom`), or torchvision's by name. A
safetensors file says in its metadata what its head's rows name and how the images were prepared that it was trained on.
"""

import math
from pathlib import Path

from safetensors import safe_open

from wbc_common.errors import DataError, SettingError
from wbc_common.study import ImageSettings, ModelSettings

SAFETENSORS = ".safetensors"
SUFFIXES = (SAFETENSORS, ".pth", ".pt")
CLASSES_KEY = "classes"  # of a file's metadata: its classes, joined by commas
ROWS_KEY = "head-rows"  # likewise: what its head's rows name, where these are not its classes
IMAGES_KEY = "images"  # likewise: how the images were prepared that it was trained on, as JSON
PHANTOM_FOLDER = Path(__file__).parent / "pretrained"


def find_weights(settings: ModelSettings, beside: Path) -> ModelSettings:
    """The settings with the place of a weights file that lies beside the study's own file, in the folder `beside`.

    They stay as written, which means the working folder, where no such file is there, or the same one is in both.
    """
    path = Path(settings.weights)
    found = beside / path
    is_there = path.suffix in SUFFIXES and not path.is_absolute() and found.is_file()
    if not is_there or (path.is_file() and path.samefile(found)):
        return settings
    return settings.model_copy(update={"weights": str(found.resolve())})


def check_weights(settings: ModelSettings, beside: Path | None = None) -> None:
    """Check that the weights file that the settings name, if any, is there.

    Args:
        beside: the folder where `find_weights` looked first.

    Raises:
        SettingError, DataError: there is none.
    """
    if settings.weights == "phantom":
        _shipped_for(settings.backbone)
    path = weights_file(settings)
    if path is not None and not path.is_file():
        raise no_such_file(path, beside)


def weights_file(settings: ModelSettings) -> Path | None:
    """The file that holds the weights; None for torchvision's."""
    path = Path(settings.weights)
    return path if path.suffix in SUFFIXES else None


def with_shipped_file(settings: ModelSettings, images: ImageSettings) -> ModelSettings:
    """The settings with the file of the shipped network whose images were most like these; others stay as they are."""
    if settings.weights != "phantom":
        return settings

    def distance(path: Path) -> tuple[float, float]:
        """By stain first: a network knows no stain but its own, and may shrink or stretch what it looks at."""
        theirs = ImageSettings.model_validate_json(metadata_of(path)[IMAGES_KEY])
        return abs(theirs.nuclear_stain - images.nuclear_stain), abs(math.log(theirs.size_px / images.size_px))

    return settings.model_copy(update={"weights": str(min(_shipped_for(settings.backbone), key=distance))})


def _shipped_for(backbone: str) -> list[Path]:
    """The files of the networks shipped for a backbone."""
    shipped = sorted(PHANTOM_FOLDER.glob(f"{backbone}-*{SAFETENSORS}"))
    if not shipped:
        raise SettingError(
            f"no phantom weights are shipped for backbone '{backbone}'",
            remedy="make them with wbc-simulate pretrain and give that file as weights, or use weights = 'none'",
        )
    return shipped


def no_such_file(path: Path, beside: Path | None = None) -> DataError:
    """The error of a weights file that is not there, with the places that were looked at."""
    places = [beside / path, path] if beside is not None else [path]
    listed = " nor ".join(str(place) for place in dict.fromkeys(place.absolute() for place in places))
    made = f"make it with wbc-simulate pretrain {path.name} (the study's file may say with which options)"
    return DataError(
        f"cannot read weights {path.name}: no such file {listed}",
        remedy=f"{made}, or change model.weights" if path.suffix == SAFETENSORS else "change model.weights",
    )


def metadata_of(path: Path | None) -> dict[str, str]:
    """What a safetensors file says of itself; nothing of other weights."""
    if path is None or path.suffix != SAFETENSORS:
        return {}
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})
