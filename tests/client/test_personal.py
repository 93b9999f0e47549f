"""Personal heads: only head rows move, the file stays on site and fits its own plan's model alone."""

from pathlib import Path

import numpy as np
import pytest
import torch

from wbc_client.dataset.cell_set import CellSet
from wbc_client.features import predict
from wbc_client.personal import HEAD_NAME, fit_personal_head, keep_head, put_head
from wbc_common.errors import DataError
from wbc_common.models import HEAD_KEYS, Network, build_model, model_arrays
from wbc_common.study import StudyConfig, parse_study


def plan(**personal: object) -> StudyConfig:
    values = {
        "name": "toy",
        "clinics": {"train": ["a", "b"]},
        "images": {"size_px": 16},
        "training": {"batch_size": 8, "augmentation": "none"},
        "loss": {"classification": "cross-entropy"},
        "personal": {"clinics": ["a"], "epochs": 30, "learning_rate": 0.05, **personal},
    }
    return parse_study(values, "toy")


def cells(num: int = 24) -> CellSet:
    labels = torch.arange(num) % 2
    images = (labels * 150 + 50).to(torch.uint8)[:, None, None, None].expand(num, 3, 16, 16).contiguous()
    allowed = torch.nn.functional.one_hot(labels, 5).bool()
    return CellSet(images, allowed, torch.arange(num), torch.zeros(num, dtype=torch.int64))


def fitted() -> Network:
    model = build_model(plan().model, plan().head_rows, seed=0)
    fit_personal_head(model, cells(), plan(), clinic="a", stains=None)
    return model


def test_the_head_learns_and_the_backbone_keeps_its_bits() -> None:
    before, model = model_arrays(build_model(plan().model, plan().head_rows, seed=0)), fitted()
    assert (predict(model, cells().images, torch.device("cpu")).argmax(dim=1) == cells().labels).all()
    for key, value in model_arrays(model).items():
        assert np.array_equal(value, before[key]) == (key not in HEAD_KEYS)


def test_a_kept_head_gives_the_same_predictions_in_a_fresh_copy_of_the_model(tmp_path: Path) -> None:
    model, fresh = fitted(), build_model(plan().model, plan().head_rows, seed=0)
    keep_head(model, tmp_path, plan())
    put_head(fresh, tmp_path / HEAD_NAME, plan())
    assert all(np.array_equal(value, model_arrays(model)[key]) for key, value in model_arrays(fresh).items())


def test_a_head_of_another_plan_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    keep_head(fitted(), tmp_path, plan())
    with pytest.raises(DataError, match="belongs to the model of another plan"):
        put_head(fitted(), tmp_path / HEAD_NAME, plan(epochs=31))
    (tmp_path / "other").write_bytes(b"no head")
    with pytest.raises(DataError, match="cannot read personal head"):
        put_head(fitted(), tmp_path / "other", plan())
