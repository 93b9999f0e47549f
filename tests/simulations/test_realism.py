"""Realism: what is told apart and what is not, and a whole measurement on a made-up clinic."""

import csv
from pathlib import Path

import pytest
import torch
from PIL import Image

from wbc_client.dataset.cell_set import CellSet
from wbc_common.study import ImageSettings
from wbc_simulations import realism as module
from wbc_simulations.pretrain import Recipe
from wbc_simulations.realism import Realism, measure_realism, realism_table, told_apart


def noise(number: int, *, seed: int, level: int = 128) -> CellSet:
    """Cells of grey noise around `level`, two a patient."""
    generator = torch.Generator().manual_seed(seed)
    images = (level + 20 * torch.randn(number, 3, 16, 16, generator=generator)).clamp(0, 255).to(torch.uint8)
    one_class = torch.eye(5, dtype=torch.bool)[torch.zeros(number, dtype=torch.int64)]
    return CellSet(images, one_class, torch.arange(number) // 2, torch.zeros(number, dtype=torch.int64))


def test_cells_of_one_kind_cannot_be_told_apart_and_others_can() -> None:
    same = told_apart(noise(200, seed=0), noise(200, seed=1), seed=0)
    other = told_apart(noise(200, seed=0), noise(200, seed=1, level=160), seed=0)
    assert 0.3 < same < 0.7
    assert other > 0.95


def test_the_larger_set_is_cut_to_the_smaller() -> None:
    assert 0 <= told_apart(noise(20, seed=0), noise(90, seed=1), seed=0) <= 1


def write_clinics(folder: Path, names: tuple[str, ...]) -> Path:
    """A manifest of flat grey images, 6 a clinic, two classes."""
    rows = []
    for clinic in names:
        for number in range(6):
            path = folder / f"{clinic}-{number}.png"
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (20, 20), (40 * number, 100, 90)).save(path)
            rows.append((path.name, clinic, ("neutrophil", "monocyte")[number % 2], f"p{number}"))
    with (folder / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "clinic", "label", "group"), *rows])
    return folder


RECIPE = Recipe("wbc5", domains=("pale_wright",), blends=1, cells=40, epochs=1, images=ImageSettings(size_px=16))


def test_every_clinic_of_the_manifest_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REPLICATES", 10)
    steps: list[str] = []
    found = measure_realism(write_clinics(tmp_path / "cells", ("east", "west")), RECIPE, [0, 1], steps.append)
    assert [(one.clinic, one.cells, one.classes, one.chance) for one in found] == [
        ("east", 6, 2, 0.5),
        ("west", 6, 2, 0.5),
    ]
    assert all(one.transfer.low <= one.transfer.high for one in found)
    assert len([step for step in steps if step.startswith("seed")]) == 2


def test_a_lone_clinic_has_no_other_to_be_told_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REPLICATES", 10)
    (one,) = measure_realism(write_clinics(tmp_path / "cells", ("east",)), RECIPE, [0], lambda text: None)
    assert one.told_from_real is None
    assert "–" in realism_table([one])


def test_the_table_shows_a_row_a_clinic() -> None:
    one = Realism("east", 60, 5, module.Interval(0.71, 0.6, 0.8), 0.98, 0.91)
    assert realism_table([one]).splitlines()[-1] == "| east | 60 | 5 | 0.71 [0.60, 0.80] | 0.20 | 0.980 | 0.910 |"
