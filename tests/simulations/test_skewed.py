"""Skewed clinics as the ClientApp meets them: packed files of the right cells, made once, in silico and real alike."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from studies import run_tiny, tiny_experiment
from wbc_client.clinic import open_clinic
from wbc_client.dataset.cell_set import CellSet
from wbc_client.dataset.packed import read_packed
from wbc_common.errors import SettingError
from wbc_common.study import StudyConfig, validated
from wbc_simulations import skewed
from wbc_simulations.clinics import source_cells, write_clinics
from wbc_simulations.data_source import DataSource
from wbc_simulations.experiment import (
    Experiment,
    all_clinics,
    plan_study,
    read_experiment,
    with_changes,
    write_experiment,
)
from wbc_simulations.skew.settings import Skew
from wbc_simulations.skewed import skewed_cells

DEALT = {"deal": "patient", "clinics": 3, "min_cells": 1}


def an_experiment(skew: dict[str, Any], **tables: Any) -> Experiment:
    experiment = tiny_experiment(**{"images": {"size_px": 32, "framing": "as-is"}, **tables})
    data = experiment.data.model_copy(update={"skew": validated(Skew, skew, "data.skew")})
    return experiment.model_copy(update={"data": data})


def files_of(experiment: Experiment, study: StudyConfig | None = None) -> dict[str, Path]:
    study = study or plan_study(experiment)
    return skewed_cells(experiment, study, lambda name: source_cells(name, experiment, study))


def cells_of(experiment: Experiment, study: StudyConfig | None = None) -> dict[str, CellSet]:
    return {name: read_packed(path) for name, path in files_of(experiment, study).items()}


def rows_of(cells: CellSet) -> set[bytes]:
    """Each cell by its pixels."""
    return {image.numpy().tobytes() for image in cells.images}


def test_virtual_clinics_train_and_the_held_out_source_stays_as_it_is() -> None:
    experiment = an_experiment(DEALT)
    study = plan_study(experiment)
    assert study.clinics.train == ("virtual-1", "virtual-2", "virtual-3")
    assert study.clinics.held_out == ("west",)
    assert all_clinics(experiment) == ("virtual-1", "virtual-2", "virtual-3", "west")
    assert files_of(experiment).keys() == {"virtual-1", "virtual-2", "virtual-3", "west"}


def test_dealt_clinics_have_the_pixels_and_labels_of_the_pool_each_cell_once() -> None:
    experiment = an_experiment(DEALT)
    study = plan_study(experiment)
    pool = [read_packed(source_cells(name, experiment, study)) for name in ("east", "north")]
    dealt = [cells for name, cells in cells_of(experiment).items() if name != "west"]
    known = {
        image.numpy().tobytes(): tuple(allowed.tolist())
        for cells in pool
        for image, allowed in zip(cells.images, cells.allowed, strict=True)
    }
    found = [
        (image.numpy().tobytes(), tuple(allowed.tolist()))
        for cells in dealt
        for image, allowed in zip(cells.images, cells.allowed, strict=True)
    ]
    assert len(found) == sum(len(cells) for cells in pool) == len({pixels for pixels, _ in found})
    assert all(known[pixels] == allowed for pixels, allowed in found)


def test_clinics_are_made_once_and_a_change_that_concerns_them_makes_them_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = files_of(an_experiment(DEALT))
    monkeypatch.setattr(skewed, "_make", lambda *arguments: pytest.fail("made again"))
    assert files_of(an_experiment(DEALT, rounds=7, loss={"tau": 0.0})) == first
    monkeypatch.setattr(skewed, "_make", lambda *arguments: None)
    for change in ({"seed": 1}, {"clinics": 2}, {"label_alpha": 5.0}, {"at": {"virtual-1": {"keep": 0.5}}}):
        others = files_of(an_experiment({**DEALT, **change}))
        assert not set(others.values()) & set(first.values()), change
    other_cells, settings = with_changes(an_experiment(DEALT), {"data.seed": 5})
    assert not settings
    assert not set(files_of(other_cells).values()) & set(first.values())


def test_a_clinic_with_wrong_labels_has_its_true_ones_where_it_is_held_out() -> None:
    experiment = an_experiment({"at": {"east": {"noise": 0.9}}})
    trains, held_out = plan_study(experiment), plan_study(experiment, held_out=["east"])
    true = read_packed(source_cells("east", experiment, trains))
    noisy, kept = cells_of(experiment, trains)["east"], cells_of(experiment, held_out)["east"]
    assert torch.equal(kept.allowed, true.allowed)
    assert torch.equal(noisy.images, true.images)
    changed = (noisy.allowed != true.allowed).any(dim=1)
    assert changed[true.split == 0].float().mean() > 0.5
    assert not changed[true.split > 0].any()


def test_a_source_on_the_command_line_is_held_out_of_the_pool() -> None:
    experiment = an_experiment(DEALT)
    study = plan_study(experiment, held_out=["east"])
    assert study.clinics.held_out == ("east",)
    assert study.clinics.train == ("virtual-1", "virtual-2", "virtual-3", "west")
    clinics = cells_of(experiment, study)
    north = read_packed(source_cells("north", experiment, study))
    dealt = set().union(*(rows_of(cells) for name, cells in clinics.items() if name.startswith("virtual")))
    assert dealt == rows_of(north)


@pytest.mark.parametrize(
    ("skew", "message"),
    [
        ({**DEALT, "pool": ["south"]}, "pool names clinics that do not exist: south"),
        ({**DEALT, "at": {"virtual-4": {"noise": 0.1}}}, "do not exist: virtual-4"),
        ({**DEALT, "pool": ["west"]}, "pool of no clinic"),
        ({"at": {"east": {"missing": ["platypus"]}}}, "unknown classes platypus"),
    ],
    ids=str,
)
def test_a_plan_whose_skew_does_not_fit_is_refused(skew: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        plan_study(an_experiment(skew), held_out=["west"])


def test_virtual_clinics_called_as_a_source_are_refused() -> None:
    experiment = an_experiment({**DEALT, "pool": ["north"]})
    clinics = tuple(
        clinic.model_copy(update={"clinic": "virtual-1"}) if clinic.clinic == "east" else clinic
        for clinic in experiment.data.clinics
    )
    experiment = experiment.model_copy(update={"data": experiment.data.model_copy(update={"clinics": clinics})})
    with pytest.raises(SettingError, match="called as sources: virtual-1"):
        plan_study(experiment)


def test_a_setting_of_the_data_is_changed_by_its_dotted_key() -> None:
    changed, left = with_changes(an_experiment(DEALT), {"data.skew.label_alpha": 0.5, "loss.tau": 1.0})
    assert (changed.data.skew.label_alpha, changed.data.skew.clinics, left) == (0.5, 3, {"loss.tau": 1.0})
    with pytest.raises(SettingError, match=r"skew\.label_alpha = -1"):
        with_changes(an_experiment(DEALT), {"data.skew.label_alpha": -1})
    with pytest.raises(SettingError, match="did you mean 'label_alpha'"):
        with_changes(an_experiment(DEALT), {"data.skew.label_alhpa": 1})


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Two real clinics of 24 plain images each, four cells a patient, one of them unreadable."""
    rows = [("path", "clinic", "label", "group")]
    for clinic in ("oslo", "rome"):
        (tmp_path / "cells" / clinic).mkdir(parents=True)
        for number in range(24):
            name = f"{clinic}/{number:02d}.png"
            level = 5 * number + (100 if clinic == "rome" else 0)
            Image.fromarray(np.full((40, 40, 3), level, dtype=np.uint8)).save(tmp_path / "cells" / name)
            rows.append((name, clinic, ("monocyte", "neutrophil", "eosinophil")[number % 3], f"p{number // 4}"))
    (tmp_path / "cells" / "rome" / "00.png").write_bytes(b"no image")
    with (tmp_path / "cells" / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return tmp_path / "cells"


def real_experiment(manifest: Path, skew: dict[str, Any], **clinics: list[str]) -> Experiment:
    settings = validated(Skew, skew, "data.skew")
    data = DataSource(kind="manifest", path=manifest, skew=settings)
    study = {**an_experiment({}).study, **({"clinics": clinics} if clinics else {})}
    return Experiment(study=study, data=data)


def test_real_cells_are_dealt_through_the_clinics_own_reader(manifest: Path) -> None:
    experiment = real_experiment(manifest, {**DEALT, "clinics": 2})
    study = plan_study(experiment, held_out=["virtual-2"])
    clinics = cells_of(experiment, study)
    assert sum(len(cells) for cells in clinics.values()) == 47  # the unreadable image is left out, as at the clinic
    levels = [set(cells.images[:, 0, 0, 0].tolist()) for cells in clinics.values()]
    assert not levels[0] & levels[1]
    groups = [[*cells.groups.tolist()] for cells in clinics.values()]
    assert not set(groups[0]) & set(groups[1])
    assert len({*groups[0], *groups[1]}) == 12


def test_training_clinics_that_a_study_names_are_the_pool_and_the_named_held_out_one_is_not(manifest: Path) -> None:
    study = plan_study(real_experiment(manifest, DEALT, train=["oslo"], held_out=["rome"]))
    assert (study.clinics.train, study.clinics.held_out) == (("virtual-1", "virtual-2", "virtual-3"), ("rome",))


def test_a_changed_image_is_read_again(manifest: Path) -> None:
    experiment = real_experiment(manifest, DEALT)
    study = plan_study(experiment, held_out=["virtual-1"])
    before = source_cells("oslo", experiment, study)
    Image.fromarray(np.full((41, 41, 3), 250, dtype=np.uint8)).save(manifest / "oslo" / "03.png")
    after = source_cells("oslo", experiment, study)
    assert before != after
    assert read_packed(after).images[3, 0, 0, 0] == 250


@pytest.mark.slow
def test_a_study_on_dealt_clinics_with_faults_runs_like_any_other(tmp_path: Path) -> None:
    at = {"virtual-1": {"noise": 0.3}, "virtual-2": {"labels": "wbc5"}}
    skew = {**DEALT, "deal": "cell", "label_alpha": 5.0, "min_cells": 5, "at": at}
    experiment = an_experiment(skew, registry="wbc13")
    run, study = run_tiny(tmp_path / "run", experiment)
    assert set(run.read_metrics()["held_out"]) == {"west"}
    coarse = open_clinic(tmp_path / "run" / "clinics" / "virtual-2.toml").cells
    assert not coarse.part("train").exact.all()
    assert coarse.part("val").exact.all()
    assert write_clinics(experiment, study, tmp_path / "again").is_dir()


@pytest.mark.parametrize("skew", [{"at": {"east": {"noise": 0.1}}}, {**DEALT, "sizes": {"kind": "equal"}}], ids=str)
def test_an_experiment_with_a_skew_survives_its_file(skew: dict[str, Any], tmp_path: Path) -> None:
    experiment = an_experiment(skew)
    write_experiment(experiment, tmp_path / "experiment.toml")
    assert read_experiment(tmp_path / "experiment.toml") == experiment
