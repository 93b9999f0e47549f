"""Classifying image files with a model: prepared as its plan says."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wbc_client.evaluation.neighbours import LEAST_CELLS
from wbc_client.predict import Prediction, classify, load_model
from wbc_common.arrays_file import arrays_as_file
from wbc_common.cells import CLASSES_5
from wbc_common.errors import DataError
from wbc_common.files import write_atomically
from wbc_common.models import build_model
from wbc_common.study import StudyConfig, parse_study


def _study(**images: object) -> StudyConfig:
    settings = {"size_px": 32, "white_balance": False, "framing": "as-is", **images}
    values = {"name": "t", "registry": "wbc5", "clinics": {"train": ["here"]}, "images": settings}
    return StudyConfig.model_validate(values | {"model": {"weights": "none"}, "evaluation": {"stain_draws": 0}})


def _classified(study: StudyConfig, path: Path, um_per_px: float | None = None) -> Prediction:
    model = build_model(study.model, study.head_rows, seed=0).eval()
    return classify(model, study, [path], um_per_px)[0]


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "cell.png")
    return tmp_path / "cell.png"


def test_a_model_of_a_field_in_micrometres_asks_for_the_scale(noise: Path) -> None:
    with pytest.raises(DataError, match="a field of 10 µm") as refusal:
        _classified(_study(field_um=10), noise)
    assert "--um-per-px" in str(refusal.value.remedy)


def test_a_model_of_a_field_in_micrometres_sees_that_field(noise: Path, tmp_path: Path) -> None:
    middle = tmp_path / "middle.png"
    Image.fromarray(np.asarray(Image.open(noise))[16:48, 16:48]).save(middle)
    shown = _classified(_study(field_um=16), noise, um_per_px=0.5)  # the middle 32 of 64 pixels
    assert shown.probabilities == _classified(_study(), middle).probabilities
    assert shown.probabilities != _classified(_study(), noise).probabilities


def test_images_are_classified_together_and_what_each_would_be_alone_is_told(tmp_path: Path) -> None:
    draws = np.random.default_rng(1)
    paths = [tmp_path / f"{number}.png" for number in range(LEAST_CELLS)]
    for path in paths:
        Image.fromarray(draws.integers(0, draws.integers(2, 256), (32, 32, 3), dtype=np.uint8)).save(path)
    alone, together = (_all_classified(_study(), paths, together=value) for value in (False, True))
    assert [found.probabilities for found in together] == [found.probabilities for found in alone]
    assert all(found.cell_class == found.alone for found in alone)
    assert [found.alone for found in together] == [found.cell_class for found in alone]
    changed = [found for found in together if found.cell_class != found.alone]
    assert changed
    assert all(found.probability < found.probabilities[found.alone] for found in changed)


def _all_classified(study: StudyConfig, paths: list[Path], *, together: bool) -> list[Prediction]:
    evaluation = study.evaluation.model_copy(update={"together": together})
    model = build_model(study.model, study.head_rows, seed=0).eval()
    return classify(model, study.model_copy(update={"evaluation": evaluation}), paths)


def _exported(folder: Path, **changes: str) -> Path:
    study, path = _study(), folder / "model.safetensors"
    arrays = {
        key: value.numpy() for key, value in build_model(study.model, study.head_rows, seed=0).state_dict().items()
    }
    metadata = {"study": study.model_dump_json(), "classes": ",".join(CLASSES_5), **changes}
    write_atomically(path, *arrays_as_file(arrays, metadata))
    return path


def test_an_exported_model_comes_back_with_its_study(tmp_path: Path) -> None:
    model, study = load_model(_exported(tmp_path, **{"registry-digest": "of a version that knew fewer words"}))
    assert study == _study()
    assert model.head.weight.shape[0] == 13


def test_a_model_from_before_fine_classes_has_one_row_a_class_and_looks_at_no_neighbour(tmp_path: Path) -> None:
    values = _study().model_dump()
    values |= {"model": {"fine_classes": False}, "evaluation": {**values["evaluation"], "together": False}}
    old = parse_study(values, "old")
    path, told = tmp_path / "model.safetensors", old.model_dump(mode="json")
    del told["model"]["fine_classes"], told["evaluation"]["together"]
    arrays = {key: value.numpy() for key, value in build_model(old.model, old.head_rows, seed=0).state_dict().items()}
    write_atomically(path, *arrays_as_file(arrays, {"study": json.dumps(told), "classes": ",".join(CLASSES_5)}))
    model, study = load_model(path)
    assert model.head.weight.shape[0] == 5
    assert study == old


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"classes": "neutrophil,lymphocyte"}, "made for other classes than those of wbc5"),
        ({"study": "{}"}, "holds a study that this version cannot read"),
    ],
)
def test_a_model_that_cannot_be_used_is_refused(tmp_path: Path, changes: dict[str, str], complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        load_model(_exported(tmp_path, **changes))


def test_files_that_are_no_model_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_atomically(path, *arrays_as_file({"a": np.zeros(2)}))
    with pytest.raises(DataError, match="does not say which study"):
        load_model(path)
    path.write_bytes(b"no model")
    with pytest.raises(DataError, match="cannot read model"):
        load_model(path)
