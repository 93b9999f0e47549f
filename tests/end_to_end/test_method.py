"""Options of the method through the unmodified ServerApp and ClientApp: what is off by default, all at once."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from safetensors.numpy import load_file

from studies import ALIGNED_LOSS, aligned_experiment, run_tiny, tiny_experiment
from wbc_server.run_folder import RunFolder
from wbc_simulations.engine.engines import InProcessGrid
from wbc_simulations.experiment import Experiment, plan_study
from wbc_simulations.running import continue_run, finish_run, start_run


def rich_experiment() -> Experiment:
    """Three rounds: focal loss, pooled stain, FedAdam, a head-only round, the average exported, updates in int8."""
    return aligned_experiment(
        rounds=3,
        training={"local_epochs": 1, "batch_size": 16, "augmentation": "federated-stain", "head_only_rounds": 1},
        loss={**ALIGNED_LOSS, "classification": "focal"},
        aggregation={"rule": "uniform", "optimizer": "fedadam", "step_size": 0.01},
        evaluation={"bootstrap_replicates": 20, "selection": "average", "stain_draws": 1},
        personal={"clinics": ["north"], "epochs": 2},
        transport={"update_precision": "int8"},
    )


@pytest.fixture(scope="module")
def rich_run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return run_tiny(tmp_path_factory.mktemp("rich") / "run", rich_experiment())[0]


def records(run: RunFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.journal.read_text().splitlines()]


def ledger(run: RunFolder, clinic: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.path / "sites" / clinic / "egress.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_every_clinic_trained_in_every_round_and_nothing_was_refused(rich_run: RunFolder) -> None:
    assert [sorted(record["train"]) for record in records(rich_run)] == [["east", "north", "south"]] * 3
    assert [record["refused"] for record in records(rich_run)] == [[]] * 3


@pytest.mark.slow
def test_in_the_head_only_round_a_hundredth_of_the_bytes_leaves(rich_run: RunFolder) -> None:
    sizes = [record["egress"]["east"]["update"] for record in records(rich_run)]
    assert sizes[2] < sizes[1] / 50


@pytest.mark.slow
def test_the_held_out_clinic_gives_neither_stain_nor_sums(rich_run: RunFolder) -> None:
    assert {line["task"] for line in ledger(rich_run, "west")} == {"describe", "evaluate"}
    assert [line["task"] for line in ledger(rich_run, "east")].count("stain-sums") == 1
    assert rich_run.read_metrics()["egress_bytes"]["east"]["stain-sums"] > 0


@pytest.mark.slow
def test_a_resumed_study_with_server_state_and_stain_keeps_its_bits(
    rich_run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path / "run")
    start_run(rich_experiment(), plan_study(rich_experiment()), run)
    deliver, sent = InProcessGrid._deliver, []

    def stop_after_some(grid: InProcessGrid, message: Message) -> Message:
        sent.append(message)
        if len(sent) == 16:  # in round 3, with what rounds 1 and 2 left behind
            raise KeyboardInterrupt
        return deliver(grid, message)

    monkeypatch.setattr(InProcessGrid, "_deliver", stop_after_some)
    with pytest.raises(KeyboardInterrupt):
        finish_run(rich_experiment(), run.study(), run, "in-process")
    monkeypatch.undo()
    finish_run(*continue_run(run), run, "in-process")
    ours, expected = load_file(run.model), load_file(rich_run.model)
    assert all(np.array_equal(ours[key], value) for key, value in expected.items())
    assert run.read_metrics()["held_out"] == rich_run.read_metrics()["held_out"]


@pytest.mark.slow
def test_a_personal_head_is_measured_beside_the_global_one_and_stays(rich_run: RunFolder) -> None:
    found = rich_run.read_metrics()["in_domain"]
    assert found["east"]["personal"] is None
    assert (
        np.sum(found["north"]["personal"]["confusion"], axis=1).tolist()
        == np.sum(found["north"]["confusion"], axis=1).tolist()
    )
    assert (rich_run.path / "sites" / "north" / "personal-head.safetensors").exists()
    assert not (rich_run.path / "sites" / "east" / "personal-head.safetensors").exists()
    assert "north keeps a head of its own, which never left" in rich_run.report.read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_private_study_tells_what_it_spent_and_stops_at_its_budget(tmp_path: Path) -> None:
    """σ = 1.5 for every round: the third would exceed ε, so it is refused and the study ends with two rounds' worth."""
    experiment = tiny_experiment(
        rounds=3,
        privacy={"mode": "dp-sgd", "epsilon": 3.6, "noise_multiplier": 1.5, "delta": 1e-3},
        evaluation={"bootstrap_replicates": 0},
    )
    run, _ = run_tiny(tmp_path / "run", experiment)
    refused = [(entry["clinic"], entry["round"]) for record in records(run) for entry in record["refused"]]
    spent = run.read_metrics()["privacy"]["spent"]
    assert refused
    assert all(round_number > 1 for _, round_number in refused)
    assert all(0 < epsilon <= 3.6 for epsilon in spent.values())
    assert "does not cover class counts" in run.report.read_text()
    assert all("loss" not in values for record in records(run) for values in record["train"].values())
