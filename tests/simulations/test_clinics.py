"""In-silico clinics: the cells they were asked for, the same ones each time, rendered once."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from studies import tiny_experiment
from wbc_client.dataset.packed import read_packed
from wbc_client.site import read_site
from wbc_common.cells import CLASSES_13, registry
from wbc_common.errors import SettingError
from wbc_common.files import cache_folder
from wbc_simulations import clinics
from wbc_simulations.clinics import (
    draw_classes,
    phantom_cells,
    render_clinic,
    unrendered_clinic,
    write_clinics,
)
from wbc_simulations.experiment import DataSource, PhantomClinic, plan_study
from wbc_simulations.phantom import case_mix

STUDY = plan_study(tiny_experiment(images={"size_px": 32, "framing": "as-is"}))


def a_clinic(**values: Any) -> PhantomClinic:
    return PhantomClinic(**{"clinic": "east", "domain": "pale_wright", "cells": 8, "patients": 4, **values})


def drawn(clinic: PhantomClinic, seed: int = 0) -> np.ndarray:
    patients = np.arange(clinic.cells) % clinic.patients
    return draw_classes(clinic, patients, np.random.default_rng(seed))


def shares(classes: np.ndarray) -> np.ndarray:
    return np.bincount(classes, minlength=13) / len(classes)


def mix(name: str) -> np.ndarray:
    return np.array([case_mix(name)[cell_class] for cell_class in CLASSES_13])


def test_the_same_clinic_and_seed_give_the_same_cells_and_another_seed_does_not() -> None:
    classes = registry("wbc13")
    one, again, other = (render_clinic(a_clinic(), classes, size_px=32, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one.images, again.images)
    assert torch.equal(one.allowed, again.allowed)
    assert torch.equal(one.split, again.split)
    assert not torch.equal(one.images, other.images)


def test_cells_can_be_counted_without_rendering_them() -> None:
    clinic = a_clinic(cells=60, patients=10, case_mix={"aml": 0.5, "normal": 0.5})
    rendered = render_clinic(clinic, registry("wbc5"), size_px=32, seed=3)
    counted = unrendered_clinic(clinic, registry("wbc5"), seed=3)
    for column in ("allowed", "groups", "split"):
        assert torch.equal(getattr(rendered, column), getattr(counted, column))
    assert counted.images.shape == (len(rendered), 3, 0, 0)


def test_cells_are_rendered_once_and_then_come_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WBC_CACHE", str(tmp_path))
    path = phantom_cells(a_clinic(), STUDY, seed=0)
    assert path.is_relative_to(tmp_path)
    assert len(read_packed(path)) == 8

    def never(*args: object, **options: object) -> None:
        raise AssertionError("rendered again")

    monkeypatch.setattr(clinics, "render_clinic", never)
    assert phantom_cells(a_clinic(), STUDY, seed=0) == path
    assert phantom_cells(a_clinic(role="held-out"), STUDY, seed=0) == path
    with pytest.raises(AssertionError, match="rendered again"):
        phantom_cells(a_clinic(), STUDY, seed=1)


@pytest.fixture
def cell_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Where cells would be kept, without rendering any."""
    monkeypatch.setenv("WBC_CACHE", str(tmp_path))
    monkeypatch.setattr(clinics, "render_clinic", lambda *args, **options: None)
    monkeypatch.setattr(clinics, "write_packed", lambda cells, path, metadata: path.touch())

    def keep(clinic: PhantomClinic, seed: int = 0, **tables: Any) -> Path:
        base = {"images": {"size_px": 32, "framing": "as-is"}}
        return phantom_cells(clinic, plan_study(tiny_experiment(**{**base, **tables})), seed)

    return keep


@pytest.mark.parametrize(
    "change",
    [
        {"cells": 9},
        {"patients": 5},
        {"domain": "dm96_mgg"},
        {"case_mix": {"aml": 1.0}},
        {"case_mix": {"normal": 0.5, "aml": 0.5}},
        {"missing": ("monocyte",)},
        {"clinic": "north"},
    ],
    ids=str,
)
def test_whatever_changes_a_clinics_cells_changes_their_place_in_the_cache(
    cell_file: Callable[..., Path], change: dict[str, Any]
) -> None:
    assert cell_file(a_clinic(**change)) != cell_file(a_clinic())


@pytest.mark.parametrize("change", [{"seed": 1}, {"registry": "wbc13"}, {"images": {"size_px": 48}}], ids=str)
def test_seed_classes_and_size_change_the_place_in_the_cache(
    cell_file: Callable[..., Path], change: dict[str, Any]
) -> None:
    assert cell_file(a_clinic(), **change) != cell_file(a_clinic())


def test_what_does_not_touch_the_cells_shares_them(cell_file: Callable[..., Path]) -> None:
    assert cell_file(a_clinic(), rounds=7, loss={"tau": 0.0}) == cell_file(a_clinic())


def test_two_runs_that_render_one_clinic_at_once_do_not_share_a_half_written_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WBC_CACHE", str(tmp_path))
    written: list[Path] = []

    def write(cells: object, path: Path, metadata: object) -> None:
        written.append(path)
        path.touch()

    monkeypatch.setattr(clinics, "render_clinic", lambda *args, **options: None)
    monkeypatch.setattr(clinics, "write_packed", write)
    kept = phantom_cells(a_clinic(), STUDY, seed=0)
    monkeypatch.setattr(os, "getpid", lambda: 1)
    kept.unlink()
    assert phantom_cells(a_clinic(), STUDY, seed=0) == kept
    assert len(set(written)) == 2
    assert kept not in written
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]


def test_the_cache_is_where_it_is_asked_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WBC_CACHE", "/ours")
    monkeypatch.setenv("XDG_CACHE_HOME", "/everyones")
    assert cache_folder() == Path("/ours/wbc-fl")
    monkeypatch.delenv("WBC_CACHE")
    assert cache_folder() == Path("/everyones/wbc-fl")


def test_a_clinic_never_has_the_classes_it_misses() -> None:
    clinic = a_clinic(cells=20_000, patients=50, missing=("segmented_neutrophil", "monocyte"))
    found = shares(drawn(clinic))
    missing = [CLASSES_13.index(name) for name in clinic.missing]
    assert found[missing].tolist() == [0.0, 0.0]
    expected = mix("normal")
    expected[missing] = 0
    assert found == pytest.approx(expected / expected.sum(), abs=0.02)


def test_cells_follow_the_case_mix_of_the_patients() -> None:
    clinic = a_clinic(cells=60_000, patients=3000, case_mix={"normal": 3.0, "aml": 1.0})
    assert shares(drawn(clinic)) == pytest.approx(0.75 * mix("normal") + 0.25 * mix("aml"), abs=0.02)


def test_all_cells_of_a_patient_come_from_one_case() -> None:
    clinic = a_clinic(cells=4000, patients=4, case_mix={"normal": 0.5, "aml": 0.5})
    classes, patients = drawn(clinic, seed=1), np.arange(4000) % 4
    blasts = [float((classes[patients == patient] == CLASSES_13.index("myeloblast")).mean()) for patient in range(4)]
    low, high = mix("normal")[CLASSES_13.index("myeloblast")], mix("aml")[CLASSES_13.index("myeloblast")]
    assert high > low + 0.2
    assert all(min(abs(share - low), abs(share - high)) < 0.06 for share in blasts)


def test_no_patient_lies_in_two_splits_and_all_three_are_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    def blank(classes: torch.Tensor, *args: object, **options: object) -> torch.Tensor:
        return torch.zeros(len(classes), 3, 2, 2, dtype=torch.uint8)

    monkeypatch.setattr(clinics, "render", blank)
    cells = render_clinic(a_clinic(cells=200, patients=20), registry("wbc13"), size_px=32, seed=0)
    pairs = {(int(patient), int(split)) for patient, split in zip(cells.groups, cells.split, strict=True)}
    assert len(pairs) == 20
    assert {split for _, split in pairs} == {0, 1, 2}


def test_cells_that_the_registry_has_no_class_for_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def blank(classes: torch.Tensor, *args: object, **options: object) -> torch.Tensor:
        return torch.zeros(len(classes), 3, 2, 2, dtype=torch.uint8)

    monkeypatch.setattr(clinics, "render", blank)
    clinic = a_clinic(cells=300, patients=10, case_mix={"aml": 1.0})
    assert len(render_clinic(clinic, registry("wbc13"), size_px=32, seed=0)) == 300
    coarse = render_clinic(clinic, registry("wbc5"), size_px=32, seed=0)
    assert 0 < len(coarse) < 300
    assert coarse.allowed.sum(dim=1).unique().tolist() == [1]


@pytest.mark.parametrize(
    ("clinic", "message"),
    [
        (a_clinic(case_mix={"measles": 1.0}), "measles"),
        (a_clinic(domain="sepia"), "sepia"),
        (a_clinic(missing=("platypus",)), "platypus"),
        (a_clinic(missing=CLASSES_13), "misses every class of case 'normal'"),
        (a_clinic(case_mix={"normal": 0.0}), "no positive share"),
        (a_clinic(case_mix={"normal": 1.0, "aml": -0.5}), "no positive share"),
    ],
    ids=["case", "domain", "class", "no class left", "share 0", "share below 0"],
)
def test_what_a_clinic_cannot_be_made_of_is_named(clinic: PhantomClinic, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        render_clinic(clinic, registry("wbc13"), size_px=32, seed=0)


def test_each_clinic_gets_a_file_that_the_clinics_own_reader_takes(
    tmp_path: Path, cell_file: Callable[..., Path]
) -> None:
    experiment = tiny_experiment()
    folder = write_clinics(experiment, plan_study(experiment), tmp_path / "run")
    sites = [read_site(path) for path in sorted(folder.glob("*.toml"))]
    assert [site.clinic for site in sites] == ["east", "north", "west"]
    assert {site.study for site in sites} == {tmp_path / "run" / "study.toml"}
    assert sites[0].state_dir == tmp_path / "run" / "sites" / "east"
    assert all(site.data.path.exists() for site in sites)


def test_clinics_of_real_cells_point_to_their_rows_of_the_manifest(tmp_path: Path) -> None:
    source = DataSource(kind="manifest", path=tmp_path / "cells", splits="given")
    experiment = tiny_experiment().model_copy(update={"data": source})
    folder = write_clinics(experiment, STUDY, tmp_path / "run")
    data = read_site(folder / "north.toml").data
    assert (data.kind, data.clinic, data.splits, data.path) == ("manifest", "north", "given", tmp_path / "cells")
