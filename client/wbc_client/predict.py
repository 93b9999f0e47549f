"""Classify cells with an exported model, on site: the file says itself how images are to be prepared."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from wbc_client.evaluation.prediction import predict_finished
from wbc_common.appearance import prepare
from wbc_common.errors import DataError, SettingError
from wbc_common.images import read_image
from wbc_common.models import Network, build_model
from wbc_common.study import StudyConfig, parse_study
from wbc_common.weights_file import CLASSES_KEY

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Prediction:
    """What a cell is predicted to be.

    Attributes:
        cell_class: the class, in which the cells beside it may have had a say.
        alone: the class by the image alone.
        probabilities: of all classes, the network's for the image alone (not calibrated).
    """

    path: Path
    cell_class: str
    alone: str
    probabilities: dict[str, float]

    @property
    def probability(self) -> float:
        """The network's probability for the class."""
        return self.probabilities[self.cell_class]


def load_model(path: Path) -> tuple[Network, StudyConfig]:
    """An exported model and the study it comes from.

    Raises:
        DataError: the file is no model of ours, is damaged, or was made for other classes.
    """
    remedy = "give the model.safetensors of a finished run"
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError) as error:
        raise DataError(f"cannot read model {path}: {error}", remedy=remedy) from error
    if "study" not in metadata:
        raise DataError(f"{path} does not say which study it comes from", remedy=remedy)
    study = _study_of(path, metadata["study"])
    if metadata.get(CLASSES_KEY) != ",".join(study.classes.classes):  # a word learnt since changes no class
        raise DataError(
            f"{path} was made for other classes than those of {study.registry} today",
            remedy="use the wbc-fl version that made it",
        )
    model = build_model(study.model, study.head_rows, seed=0)
    try:
        model.load_state_dict(arrays)
    except RuntimeError as error:
        raise DataError(f"the arrays of {path} do not fit backbone {study.model.backbone}", remedy=remedy) from error
    return model.eval(), study


def _study_of(path: Path, text: str) -> StudyConfig:
    try:
        values = json.loads(text)
        if isinstance(values, dict) and isinstance(values.get("model"), dict):
            values["model"].setdefault("fine_classes", False)  # an export from before there were any
            values.setdefault("evaluation", {}).setdefault("together", False)  # likewise
        return parse_study(values, path.name)
    except (ValueError, SettingError) as error:
        raise DataError(
            f"{path} holds a study that this version cannot read: {error}",
            remedy="use the wbc-fl version that made it",
        ) from error


def classify(
    model: Network, study: StudyConfig, paths: Iterable[Path], um_per_px: float | None = None
) -> list[Prediction]:
    """Predictions for image files of single cells, averaged over the plan's stain draws and made together.

    Args:
        um_per_px: micrometres per pixel of all images, for a model whose plan shows a field in µm.

    Raises:
        DataError: an image cannot be read, or the model needs `um_per_px`.
    """
    side, field = study.images.source_px, study.images.field_um
    if field is not None and um_per_px is None:
        raise DataError(f"this model looks at a field of {field:g} µm", remedy="give --um-per-px of the images")
    files = list(paths)
    read = (torch.tensor(read_image(path, side, um_per_px=um_per_px, field_um=field)) for path in files)
    images = prepare(torch.stack([pixels.permute(2, 0, 1) for pixels in read]), study.images)  # uint8 [N, 3, H, W]
    logits, places = predict_finished(model, images, torch.device("cpu"), study.evaluation)
    probabilities = logits.softmax(dim=1).tolist()
    return [_prediction(*found, study) for found in zip(files, places.tolist(), probabilities, strict=True)]


def image_files(places: Iterable[Path]) -> list[Path]:
    """Image files among files and folders, in name order.

    Raises:
        DataError: there is none.
    """
    found: list[Path] = []
    for place in places:
        inside = place.rglob("*") if place.is_dir() else [place]
        found += sorted(path for path in inside if place.is_file() or path.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise DataError("no image found", remedy=f"name files or folders with {', '.join(IMAGE_SUFFIXES)}")
    return found


def _prediction(path: Path, place: int, row: list[float], study: StudyConfig) -> Prediction:
    probabilities = dict(zip(study.classes.classes, row, strict=True))
    alone = max(probabilities, key=probabilities.__getitem__)
    return Prediction(path, study.classes.classes[place], alone, probabilities)
