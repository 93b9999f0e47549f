"""Rehearsal: which in-silico cells join a clinic's own, what they add to the loss, and what they must not touch."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from wbc_client.cli import app
from wbc_client.dataset.cell_set import CellSet
from wbc_client.dataset.compact import read_compact, write_compact
from wbc_client.dataset.packed import packed_metadata, write_packed
from wbc_client.losses import DomainAwareLoss, LossTerms
from wbc_client.training.course import Batch
from wbc_client.training.local import build_loss, train_locally
from wbc_client.training.rehearsal import REHEARSAL_CELLS, RehearsedLoss, rehearsal_cells, with_rehearsal
from wbc_client.training.round import changes
from wbc_common.cells import CLASSES_13, registry
from wbc_common.errors import DataError, SettingError
from wbc_common.models import build_model, model_arrays
from wbc_common.seeds import torch_generator
from wbc_common.study import StudyConfig, parse_study, write_study
from wbc_common.wire import Arrays


def study(rehearsal: float | None = 1.0, **tables: object) -> StudyConfig:
    training = {"local_epochs": 1, "batch_size": 8, "augmentation": "none"}
    values = {
        "name": "toy",
        "rounds": 4,
        "clinics": {"train": ["a"]},
        "images": {"size_px": 16},
        "training": training if rehearsal is None else {**training, "rehearsal": rehearsal},
        "loss": {"guide_weight": 0.0, "alignment_weight": 0.0},
    }
    return parse_study({**values, **tables}, "toy")


def own_cells(num: int) -> CellSet:
    """Dark cells, all neutrophils."""
    allowed = torch.nn.functional.one_hot(torch.zeros(num, dtype=torch.int64), 5).bool()
    images = torch.full((num, 3, 16, 16), 7, dtype=torch.uint8)
    return CellSet(images, allowed, torch.arange(num), torch.zeros(num, dtype=torch.int64))


def delta(plan: StudyConfig, clinic: str = "a", round_number: int = 1) -> Arrays:
    model = build_model(plan.model, plan.head_rows, seed=0)
    before = model_arrays(model)
    train_locally(model, own_cells(10), plan, clinic=clinic, round_number=round_number, sums=None)
    return changes(model, before)


def equal(one: Arrays, other: Arrays) -> bool:
    return all(np.array_equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(("name", "per_class"), [("wbc13", [100] * 13), ("wbc5", [200, 200, 100, 100, 100])])
def test_the_package_ships_a_hundred_cells_of_each_of_13_classes(name: str, per_class: list[int]) -> None:
    cells = rehearsal_cells(name, 128, 0.0)
    assert cells.class_counts().tolist() == per_class
    assert cells.images.shape[1:] == (3, 128, 128)
    assert cells.images.dtype == torch.uint8


def test_eleven_classes_have_theirs_too() -> None:
    counts = rehearsal_cells("wbc11", 64, 0.0).class_counts()
    assert (counts >= 100).all()


def test_cells_take_the_size_and_the_stain_of_the_study() -> None:
    plain, evened = rehearsal_cells("wbc5", 64, 0.0), rehearsal_cells("wbc5", 64, 0.75)
    assert plain.images.shape[1:] == (3, 64, 64)
    full = rehearsal_cells("wbc5", 128, 0.0).images.float()
    torch.testing.assert_close(plain.images.float().mean(), full.mean(), rtol=0.01, atol=0)
    assert not torch.equal(plain.images, evened.images)


@pytest.mark.parametrize(("share", "expected"), [(0.5, 5), (1.0, 10), (2.0, 20), (0.001, 1)])
def test_as_many_join_as_the_plan_says_and_one_at_least(share: float, expected: int) -> None:
    found = with_rehearsal(own_cells(10), study(share), torch_generator(0))
    assert len(found) == 10 + expected
    assert torch.equal(found.take(torch.arange(10))[0], own_cells(10).images)
    counts = torch.bincount(found.drawn_rows, minlength=13)
    assert counts.sum() == expected
    assert counts.max() - counts.min() <= 1


def test_a_batch_of_both_has_each_cell_in_its_place() -> None:
    found = with_rehearsal(own_cells(10), study(), torch_generator(0))
    in_turn = found.take(torch.arange(20))
    mixed = torch.randperm(20, generator=torch_generator(1))
    for seen, expected in zip(found.take(mixed), in_turn, strict=True):
        assert torch.equal(seen, expected[mixed])
    for places in (torch.arange(4), torch.arange(14, 17)):
        assert torch.equal(found.take(places)[0], in_turn[0][places])


def test_rounds_and_clinics_draw_other_cells_and_a_repeated_round_the_same() -> None:
    def drawn(clinic: str, number: int) -> torch.Tensor:
        found = with_rehearsal(own_cells(10), study(), torch_generator(0, "rehearsal", clinic, number))
        return found.take(torch.arange(10, 20))[0]

    assert torch.equal(drawn("a", 1), drawn("a", 1))
    assert not torch.equal(drawn("a", 1), drawn("a", 2))
    assert not torch.equal(drawn("a", 1), drawn("b", 1))


def test_a_repeated_round_gives_the_same_bits_and_rehearsal_changes_them() -> None:
    assert equal(delta(study()), delta(study()))
    assert not equal(delta(study()), delta(study(0.0)))
    assert not equal(delta(study()), delta(study(), round_number=2))


def test_without_rehearsal_the_shipped_cells_are_not_even_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> CellSet:
        raise AssertionError

    monkeypatch.setattr("wbc_client.training.rehearsal.rehearsal_cells", fail)
    delta(study(0.0))
    with pytest.raises(AssertionError):
        delta(study(1.0))


def batch_of(own: int, rehearsed: int) -> tuple[torch.Tensor, torch.Tensor, Batch]:
    generator = torch.Generator().manual_seed(3)
    number = own + rehearsed
    features, logits = (torch.randn(number, size, generator=generator) for size in (4, 13))
    labels = torch.randint(0, 5, (number,), generator=generator)
    places = torch.cat([torch.arange(own), 100 + torch.arange(rehearsed)])
    order = torch.randperm(number, generator=generator)
    allowed = torch.nn.functional.one_hot(labels, 5).bool()
    return features[order], logits[order], Batch(torch.empty(0), allowed[order], places[order])


def domain_aware() -> DomainAwareLoss:
    model = build_model(study().model, study().head_rows, seed=0)
    return build_loss(model, own_cells(10), study().loss, None)


@pytest.mark.parametrize(("own", "rehearsed"), [(6, 3), (9, 0), (0, 9), (1, 8)])
def test_the_loss_is_the_mean_over_cells_of_their_own_loss(own: int, rehearsed: int) -> None:
    features, logits, batch = batch_of(own, rehearsed)
    base = domain_aware()
    rows = torch.randint(0, 13, (rehearsed,), generator=torch.Generator().manual_seed(5))
    terms = RehearsedLoss(base, num_own=100, rows=rows)(features, logits, batch)
    is_own = batch.places < 100
    expected = 0.0
    if own:
        mine = base(features[is_own], logits[is_own], batch.allowed[is_own])
        assert terms.classification == mine.classification
        expected += own * float(mine.total)
    log_shares = logits.log_softmax(dim=1)
    for place in (~is_own).nonzero().flatten().tolist():
        expected -= float(log_shares[place, rows[batch.places[place] - 100]])
    assert float(terms.total) == pytest.approx(expected / (own + rehearsed), rel=1e-5)


def test_a_prior_of_the_clinic_does_not_reach_rehearsed_cells() -> None:
    """The domain-aware loss shifts logits by this clinic's counts; those of balanced cells stay as they are."""

    def unfair(features: torch.Tensor, logits: torch.Tensor, allowed: torch.Tensor) -> LossTerms:
        return LossTerms(*(logits.new_full((), math.nan) for _ in range(4)))

    features, logits, batch = batch_of(0, 9)
    rows = torch.zeros(9, dtype=torch.int64)
    assert torch.isfinite(RehearsedLoss(unfair, num_own=100, rows=rows)(features, logits, batch).total)


def test_plans_rehearse_unless_they_say_otherwise() -> None:
    assert study(None).training.rehearsal == 1.0
    assert study(0.0).training.rehearsal == 0.0


@pytest.mark.parametrize(
    "tables",
    [
        {"images": {"framing": "as-is"}},
        {"images": {"white_balance": False}},
        {"loss": {"alignment": "boda-paper", "alignment_weight": 0.1}},
        {"privacy": {"mode": "dp-sgd"}, "loss": {"alignment_weight": 0.0}},
    ],
    ids=["framing", "white balance", "boda", "dp-sgd"],
)
def test_where_it_does_not_fit_it_is_off_and_refused_if_asked_for(tables: dict[str, object]) -> None:
    assert study(None, **tables).training.rehearsal == 0.0
    with pytest.raises(SettingError, match=r"training\.rehearsal"):
        study(0.5, **tables)


def test_cells_survive_the_way_into_the_file_nearly(tmp_path: Path) -> None:
    path = tmp_path / "cells.safetensors"
    shipped = rehearsal_cells("wbc13", 128, 0.0)
    some = shipped.subset(torch.arange(0, 1300, 50))
    write_compact(some.images, some.labels, path)
    again = read_compact(path, registry("wbc13"))
    assert torch.equal(again.labels, some.labels)
    assert (again.images.float() - some.images.float()).abs().mean() < 3
    assert again.groups.unique().numel() == len(again)


def test_a_class_that_a_registry_has_not_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "cells.safetensors"
    finest = torch.tensor([CLASSES_13.index(name) for name in ("erythroblast", "monocyte", "band_neutrophil")])
    write_compact(torch.zeros(3, 3, 8, 8, dtype=torch.uint8), finest, path)
    cells = read_compact(path, registry("wbc5"))
    assert [registry("wbc5").classes[label] for label in cells.labels] == ["monocyte", "neutrophil"]


def test_a_damaged_or_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cells.safetensors"
    with pytest.raises(DataError, match=r"cells\.safetensors"):
        read_compact(path, registry("wbc5"))
    path.write_bytes(REHEARSAL_CELLS.read_bytes()[:-200_000])
    with pytest.raises(DataError, match=r"cells\.safetensors"):
        read_compact(path, registry("wbc5"))
    cells = rehearsal_cells("wbc13", 128, 0.0)
    write_compact(cells.images[:2], cells.labels[:2], path)
    whole = bytearray(path.read_bytes())
    whole[-600:-500] = bytes(100)
    start = whole.rindex(b"\xff\xd8\xff")
    whole[start : start + 3] = b"\0\0\0"
    path.write_bytes(bytes(whole))
    with pytest.raises(DataError, match=r"cells\.safetensors"):
        read_compact(path, registry("wbc5"))


@pytest.mark.parametrize(("role", "share", "expected"), [("train", 1.0, 1300), ("train", 0.0, 0), ("held_out", 1.0, 0)])
def test_check_opens_them_where_training_will(tmp_path: Path, role: str, share: float, expected: int) -> None:
    clinics = {"train": ["a"], "held_out": []} if role == "train" else {"train": ["b"], "held_out": ["a"]}
    file = clinic_file(tmp_path, study(share, clinics=clinics))
    found = CliRunner().invoke(app, ["check", str(file), "--json"])
    assert found.exit_code == 0, found.output
    assert json.loads(found.output)["rehearsed_cells"] == expected
    told = CliRunner().invoke(app, ["check", str(file)]).output
    assert ("in-silico cells as well" in told) == bool(expected)


def test_check_finds_a_damaged_file_before_a_round_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = tmp_path / "cells.safetensors"
    damaged.write_bytes(REHEARSAL_CELLS.read_bytes()[:-200_000])
    monkeypatch.setattr("wbc_client.training.rehearsal.REHEARSAL_CELLS", damaged)
    rehearsal_cells.cache_clear()
    found = CliRunner().invoke(app, ["check", str(clinic_file(tmp_path, study()))])
    assert isinstance(found.exception, DataError)
    assert "install the package anew" in str(found.exception)


def clinic_file(folder: Path, plan: StudyConfig) -> Path:
    """A clinic of ten packed cells, and the plan beside its file."""
    cells, path = own_cells(10), folder / "cells.packed.safetensors"
    images = torch.nn.functional.interpolate(cells.images.float(), (24, 24)).to(torch.uint8)
    write_packed(replace(cells, images=images), path, packed_metadata(plan.classes, plan.images))
    write_study(plan, folder / "study.toml")
    file = folder / "clinic.toml"
    file.write_text(f'clinic = "a"\nstudy = "study.toml"\n[data]\nkind = "packed"\npath = "{path}"\n')
    return file
