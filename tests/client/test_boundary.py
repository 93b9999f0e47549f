"""The one door out: what passes, what does not, and what is written down."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from flwr.app import ArrayRecord, Context, Message, RecordDict

from studies import tiny_experiment
from wbc_client import boundary
from wbc_client.boundary import answer, check_records
from wbc_client.state.ledger import LEDGER_NAME, read_departures
from wbc_common.errors import PolicyError
from wbc_common.wire import MESSAGE_TYPES, Task, TaskKind, decode_description, encode_task
from wbc_server.run_folder import RunFolder
from wbc_simulations.clinics import write_clinics
from wbc_simulations.engine.engines import InProcessGrid
from wbc_simulations.experiment import plan_study
from wbc_simulations.running import start_run

SECRET = "/data/patients/Maier_Anna_1961/smear7.png"


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A laid-out run whose clinics nobody has asked anything yet."""
    folder = RunFolder(tmp_path / "run")
    experiment = tiny_experiment()
    start_run(experiment, plan_study(experiment), folder)
    write_clinics(experiment, folder.study(), folder.path)
    InProcessGrid(lambda message, context: message, {})  # type: ignore[arg-type]  # gives messages a sender
    return folder


def ask(run: RunFolder, kind: TaskKind, study_hash: str | None = None) -> Message:
    task = Task(kind, study_hash or run.study().hash)
    message = Message(encode_task(task), 1, MESSAGE_TYPES[kind])
    context = Context(1, 1, {"clinic-config": str(run.path / "clinics" / "east.toml")}, RecordDict(), {})
    return answer(message, context)


def test_a_description_passes_and_stands_in_the_ledger(run: RunFolder) -> None:
    reply = ask(run, "describe")
    assert decode_description(reply.content).class_counts.sum() > 0
    (departure,) = read_departures(run.path / "sites" / "east")
    assert departure.task == "describe"
    assert departure.num_bytes == sum(record.count_bytes() for record in reply.content.values())


def test_of_an_error_only_its_kind_and_a_reference_leave(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ValueError(SECRET)

    monkeypatch.setattr(boundary, "perform", fail)
    reply = ask(run, "describe")
    assert reply.has_error()
    reason = reply.error.reason or ""
    assert "Maier" not in repr(reply)
    assert reason.startswith("failed (reference ")
    reference = reason.removeprefix("failed (reference ").removesuffix(")")
    assert any(reference in record.getMessage() and SECRET in record.getMessage() for record in caplog.records)


def test_nothing_leaves_that_the_ledger_could_not_hold(run: RunFolder) -> None:
    shutil.rmtree(run.path / "sites" / "east")
    (run.path / "sites" / "east").write_text("a file where the ledger's folder should be")
    assert ask(run, "describe").has_error()


def test_another_plan_is_refused_as_policy(run: RunFolder) -> None:
    reply = ask(run, "describe", "0" * 64)
    assert (reply.error.reason or "").startswith("policy ")
    (left,) = read_departures(run.path / "sites" / "east")
    assert (left.task, list(left.records)) == ("error", ["kind-and-reference"])


@pytest.mark.parametrize(
    "change",
    [lambda names: names | {"images"}, lambda names: names - {"counts"}],
    ids=["a surplus record", "a missing record"],
)
def test_a_reply_holds_exactly_the_records_of_its_kind(change: Callable[[set[str]], set[str]]) -> None:
    records = RecordDict({name: ArrayRecord() for name in change({"clinic", "counts"})})
    with pytest.raises(PolicyError, match="describe"):
        check_records("describe", records)


def test_the_ledger_counts_bytes_and_holds_no_content(run: RunFolder) -> None:
    ask(run, "describe")
    (line,) = (run.path / "sites" / "east" / LEDGER_NAME).read_text().splitlines()
    assert set(json.loads(line)) == {"time", "task", "round_number", "records", "plan", "bytes"}
