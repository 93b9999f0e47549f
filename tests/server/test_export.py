"""The exported model says what it is, holds the very numbers, and needs no pickle."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from wbc_common.study import parse_study
from wbc_server.final.export import export_model
from wbc_server.run_folder import RunFolder

STUDY = parse_study({"name": "export", "clinics": {"train": ["east"]}, "loss": {"alignment_weight": 0.0}}, "test")


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    weights = np.arange(6, dtype=np.float32).reshape(2, 3).T  # a view whose rows are not contiguous
    export_model(RunFolder(tmp_path), STUDY, {"head.weight": weights}, 7)
    return tmp_path / "model.safetensors"


def test_numbers_come_back_as_they_went_in_whatever_their_memory_layout(exported: Path) -> None:
    assert load_file(exported)["head.weight"].tolist() == [[0, 3], [1, 4], [2, 5]]


def test_the_file_alone_says_how_to_use_it(exported: Path) -> None:
    with safe_open(exported, framework="np") as file:
        metadata = file.metadata()
    assert parse_study(json.loads(metadata["study"]), "metadata") == STUDY
    assert metadata["study-hash"] == STUDY.hash
    assert metadata["classes"].split(",") == list(STUDY.classes.classes)
    assert metadata["registry-digest"] == STUDY.classes.digest
    assert metadata["round"] == "7"
    assert "no clinical use" in metadata["use"]


def test_no_half_written_file_is_left(exported: Path) -> None:
    assert [path.name for path in exported.parent.iterdir()] == ["model.safetensors"]
