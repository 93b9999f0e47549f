"""What the ServerApp says at start, and what it does not finish without."""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message
from safetensors.torch import load_file, save_file

from studies import rows, tiny_experiment
from wbc_client.app import app as client_app
from wbc_client.location import NODE_KEY
from wbc_common.errors import ConnectionFailure
from wbc_common.models import build_model, is_head
from wbc_common.study import ModelSettings, StudyConfig, parse_study
from wbc_common.weights_file import PHANTOM_FOLDER
from wbc_common.wire import decode_task
from wbc_server.app import expected_at_the_end, initial_model, run_study, tell_shares
from wbc_server.exchange.deployment import Deployment
from wbc_server.exchange.participation import Roster
from wbc_server.record.round_book import RoundBook
from wbc_server.run_folder import RunFolder
from wbc_simulations.clinics import write_clinics
from wbc_simulations.engine.engines import InProcessGrid
from wbc_simulations.experiment import plan_study
from wbc_simulations.running import start_run

FIRST = "backbone.0.convolution.weight"
STUDY = parse_study(
    {
        "name": "app",
        "clinics": {"train": ["east", "north"], "held_out": ["west"]},
        "aggregation": {"rule": "fedavg"},
    },
    "test",
)


def test_the_first_model_has_the_weights_that_the_plan_names(tmp_path: Path) -> None:
    source = build_model(ModelSettings(), rows(5), seed=3).state_dict()
    save_file(source, tmp_path / "w.safetensors")
    model = initial_model(plan_with({"weights": str(tmp_path / "w.safetensors")}))
    assert all(np.array_equal(value, source[key].numpy()) for key, value in model.items() if not is_head(key))
    assert not np.array_equal(initial_model(plan_with({"weights": "none"}))[FIRST], source[FIRST].numpy())


@pytest.mark.parametrize(
    ("backbone", "size_px", "taken"),
    [(None, 64, 64), (None, 96, 96), (None, 128, 128), ("p4cnn-small", 128, 128), ("p4cnn-small", 64, 128)],
)
def test_the_first_model_is_the_shipped_network_of_the_plans_images(
    backbone: str | None, size_px: int, taken: int
) -> None:
    shipped = load_file(PHANTOM_FOLDER / f"{backbone or 'cnn-small'}-{taken}.safetensors")[FIRST]
    first = initial_model(plan_with({"backbone": backbone} if backbone else {}, {"size_px": size_px}))
    assert np.array_equal(first[FIRST], shipped.float().numpy())


def plan_with(model: dict[str, object], images: dict[str, object] | None = None) -> StudyConfig:
    return parse_study({"name": "app", "clinics": {"train": ["a"]}, "model": model, "images": images or {}}, "test")


def test_each_training_clinics_cells_and_weight_are_said_at_start(caplog: pytest.LogCaptureFixture) -> None:
    counts = {clinic: np.full((3, 5), cells) for clinic, cells in (("east", 6.0), ("north", 2.0), ("west", 9.0))}
    roster = Roster({"east": 1, "north": 2, "west": 3}, counts, ("east", "north"), ("west",))
    with caplog.at_level(logging.INFO, logger="wbc_server"):
        assert tell_shares(STUDY, roster) == {"east": 0.75, "north": 0.25}
    assert [record.getMessage() for record in caplog.records] == [
        "east declares 30 training cells: 75.0 % of the backbone's weight",
        "north declares 10 training cells: 25.0 % of the backbone's weight",
    ]


class WithoutTheEnd(InProcessGrid):
    """Clinics of this process, of which one gives no answer when the finished model is measured."""

    silent: str | None = None

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Replies, but not that one."""
        nodes = {clinic: node for node, clinic in NODES.items()}
        asked = list(messages)
        at_the_end = any(decode_task(message.content).averaged for message in asked)
        heard = [
            message
            for message in asked
            if not (at_the_end and message.metadata.dst_node_id == nodes.get(self.silent or ""))
        ]
        return super().send_and_receive(heard, timeout=timeout)


NODES = {1: "east", 2: "north", 3: "west"}


def between_hospitals(path: Path) -> tuple[RunFolder, Deployment, WithoutTheEnd]:
    """A tiny study, not yet begun, whose clinics of this process are in a coordinator's register."""
    evaluation = {"bootstrap_replicates": 20, "stain_draws": 0}
    experiment = tiny_experiment(rounds=1, evaluation=evaluation)
    study, folder = plan_study(experiment), RunFolder(path / "run")
    start_run(experiment, study, folder)
    clinics = write_clinics(experiment, study, folder.path)
    deployment = Deployment(path)
    deployment.write(NODES)
    nodes = {node: {NODE_KEY: str(clinics / f"{clinic}.toml")} for node, clinic in NODES.items()}
    return folder, deployment, WithoutTheEnd(client_app, nodes)


@pytest.mark.slow
def test_between_hospitals_a_study_waits_for_the_final_measurement_of_its_held_out_clinic(tmp_path: Path) -> None:
    folder, deployment, grid = between_hospitals(tmp_path)
    grid.silent = "west"
    with pytest.raises(ConnectionFailure, match="no final evaluation of the held-out clinics west"):
        run_study(grid, folder, deployment)
    assert not folder.metrics.exists()
    grid.silent = None
    run_study(grid, folder, deployment)
    metrics = folder.read_metrics()
    assert (set(metrics["held_out"]), metrics["refused"], folder.is_finished) == ({"west"}, [], True)
    assert len(folder.journal.read_bytes().splitlines()) == 1


def test_held_out_clinics_that_answered_are_expected_until_their_key_is_revoked(tmp_path: Path) -> None:
    clinics = {"train": ["east", "north"], "held_out": ["oslo", "quito", "west"]}
    study = parse_study({"name": "app", "clinics": clinics}, "test")
    roster = Roster({"east": 1, "north": 2, "west": 3}, {}, ("east", "north"), ("west",), absent=("oslo", "quito"))
    book = RoundBook(RunFolder(tmp_path), study, roster)
    book.egress = {"east": {"evaluation": 9}, "oslo": {"evaluation": 9}, "quito": {}}  # quito never answered
    deployment = Deployment(tmp_path)
    deployment.write({1: "east", 2: "north", 3: "west", 4: "oslo", 5: "quito"})
    assert expected_at_the_end(study, roster, book, deployment) == {"oslo", "west"}
    deployment.write({1: "east", 2: "north", 4: "oslo", 5: "quito"})
    assert expected_at_the_end(study, roster, book, deployment) == {"oslo"}
    assert expected_at_the_end(study, roster, book, None) == set()  # a simulation


@pytest.mark.slow
def test_a_training_clinic_that_gave_no_final_evaluation_is_named_in_the_report(tmp_path: Path) -> None:
    folder, deployment, grid = between_hospitals(tmp_path)
    grid.silent = "north"
    run_study(grid, folder, deployment)
    refused = [(entry["clinic"], entry["stage"], entry["kind"]) for entry in folder.read_metrics()["refused"]]
    assert refused == [("north", "calibration", "absent"), ("north", "final evaluation", "absent")]
    page = folder.report.read_text(encoding="utf-8")
    assert "<strong>north</strong>: no result in the measurements at the end;" in page
