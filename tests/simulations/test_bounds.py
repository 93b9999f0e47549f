"""Bounds: who trains on what, that no cell is named by a model that saw it, and figures on the draws of all methods."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from studies import ALIGNED_LOSS, aligned_experiment, tiny_experiment
from wbc_client.dataset.cell_set import CellSet, joined
from wbc_client.dataset.packed import packed_metadata, read_packed, write_packed
from wbc_common.errors import SettingError
from wbc_server.final.draws import read_draws
from wbc_server.run_folder import RunFolder
from wbc_simulations.bounds import _but_fold, oracle_folds, part_plan
from wbc_simulations.experiment import Experiment, Method, MethodKind, plan_study, with_method
from wbc_simulations.running import finish_run, start_run
from wbc_simulations.scores import cell_scores


def cells(num: int, groups: int, shade: int = 0) -> CellSet:
    allowed = torch.nn.functional.one_hot(torch.arange(num) % 5, 5).bool()
    images = torch.full((num, 3, 16, 16), shade, dtype=torch.uint8)
    return CellSet(images, allowed, torch.arange(num) % groups, torch.arange(num) % groups % 3)


def test_pooled_cells_keep_patients_apart_and_know_their_domain(tmp_path: Path) -> None:
    found = joined([cells(6, 3), cells(0, 1), cells(4, 2, shade=9)])
    assert found.groups.tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 3, 4]
    assert found.domain is not None
    assert found.domain.tolist() == [0] * 6 + [2] * 4
    study = plan_study(tiny_experiment(), changes={"images.size_px": 16, "images.framing": "as-is"})
    metadata = packed_metadata(study.classes, study.images)
    write_packed(found, tmp_path / "pooled.safetensors", metadata)
    again = read_packed(tmp_path / "pooled.safetensors", metadata)
    assert again.domain is not None
    assert torch.equal(again.domain, found.domain)
    assert torch.equal(again.part("train").domain, found.domain[found.split == 0])  # type: ignore[arg-type]


def test_oracle_folds_never_split_a_patient_and_hold_about_a_third_each() -> None:
    clinic = cells(90, 30)
    folds = oracle_folds("west", clinic)
    assert all(len(set(folds[clinic.groups.numpy() == group])) == 1 for group in range(30))
    assert np.bincount(folds).tolist() == [30, 30, 30]
    assert np.array_equal(folds, oracle_folds("west", clinic))


def test_an_oracle_model_trains_on_everything_outside_its_third() -> None:
    clinic = cells(90, 30)
    folds = oracle_folds("west", clinic)
    rest = _but_fold(clinic, folds == 1)
    assert len(rest) == 60
    assert not set(rest.groups.tolist()) & set(clinic.groups[torch.from_numpy(folds == 1)].tolist())
    assert set(rest.split.tolist()) == {0, 1}


@pytest.mark.parametrize(("kind", "alignment"), [("centralised", 0.0), ("centralised-boda", 0.1)])
def test_a_bounds_plan_leaves_out_what_needs_several_clinics(kind: MethodKind, alignment: float) -> None:
    study = plan_study(aligned_experiment(personal={"clinics": ["east"]}))
    plan = part_plan(study, kind)
    assert plan.loss.alignment_weight == alignment
    assert (plan.aggregation.rule, plan.personal.clinics, plan.images) == ("fedavg", (), study.images)
    assert plan.loss.classification == study.loss.classification


def test_centralised_boda_without_its_term_is_refused() -> None:
    study = plan_study(tiny_experiment())
    with pytest.raises(SettingError, match="is the kind 'centralised'"):
        part_plan(study, "centralised-boda")


def bound(kind: MethodKind) -> Experiment:
    loss: dict[str, Any] = {"classification": "cross-entropy", **ALIGNED_LOSS}
    base = aligned_experiment(rounds=1, loss=loss, evaluation={"bootstrap_replicates": 20, "calibration": False})
    return with_method(base, Method(name=kind, kind=kind))


@pytest.fixture(scope="module", params=["local-only", "centralised", "centralised-boda", "in-domain-oracle"])
def finished_bound(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, RunFolder]:
    experiment = bound(request.param)
    run = RunFolder(tmp_path_factory.mktemp("bound") / "run")
    study = plan_study(experiment)
    start_run(experiment, study, run)
    finish_run(experiment, study, run, "in-process")
    return request.param, run


@pytest.mark.slow
def test_a_finished_bound_is_read_like_any_run_and_measured_on_the_same_drawn_patients(
    finished_bound: tuple[str, RunFolder], finished_run: RunFolder
) -> None:
    kind, run = finished_bound
    parts = {path.name for path in (run.path / "bounds").iterdir()}
    labels = {"local-only": {"west-by-east", "west-by-north", "west-by-south"}}.get(kind, {"west"})
    assert parts == {
        "local-only": {"east", "north", "south"},
        "in-domain-oracle": {"west-0", "west-1", "west-2"},
    }.get(kind, {"pooled"})
    assert run.is_finished
    metrics = run.read_metrics()
    assert set(metrics["held_out"]) == set(read_draws(run)) == labels
    assert metrics["rare_classes"] == finished_run.read_metrics()["rare_classes"]
    scores = cell_scores(run, ["west"])["west"]
    assert 0 <= scores.values["accuracy"] <= 1
    expected = read_draws(finished_run)["west"].sum(axis=2)  # cells of each class in each draw
    for draws in read_draws(run).values():
        np.testing.assert_array_equal(draws.sum(axis=2), expected)


@pytest.mark.slow
@pytest.mark.parametrize("finished_bound", ["centralised-boda"], indirect=True)
def test_centralised_boda_trained_with_its_alignment_term(finished_bound: tuple[str, RunFolder]) -> None:
    _, run = finished_bound
    (line,) = (run.path / "bounds" / "pooled" / "rounds.jsonl").read_text().splitlines()
    assert '"alignment":' in line
    assert '"alignment":0.0,' not in line
