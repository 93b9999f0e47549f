"""A federation of real processes over TLS on loopback: killed, stopped, resumed, lied to; and the model is the same.

One federation serves most tests, as starting one takes a while on two cores.
"""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from federations import Running, kill, running, same_study_in_process, tiny_plan, wait_for
from studies import ALIGNED_CLINICS, ALIGNED_LOSS
from wbc_common.processes import flower_command
from wbc_server.link.coordinator import Coordinator
from wbc_server.link.flower import FlowerUnreachable
from wbc_server.link.folder import StudyFolder
from wbc_server.link.starting import prepare
from wbc_server.run_folder import RunFolder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]

# Every Python process of the federation imports this first and writes down each address it connects to or looks up.
_RECORDER = """
import os, socket, sys
def _note(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        place = args[1] if event != "socket.getaddrinfo" else args[0]
        with open(os.environ["WBC_TEST_CONNECTIONS"], "a") as file:
            file.write(f"{event} {place!r} {os.path.basename(sys.argv[0]) if hasattr(sys, 'argv') else ''}\\n")
sys.addaudithook(_note)
"""


def ask(program: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([flower_command(program), *arguments], capture_output=True, text=True, check=False)


@dataclass
class Finished:
    """A federation that came to its end, and what was seen on the way."""

    running: Running
    check: dict[str, object]
    status: dict[str, object]
    connections: list[str]

    @property
    def run(self) -> RunFolder:
        return RunFolder(self.running.federation.coordinator / "run")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    """Three rounds: ServerApp and a trainer are killed in the first, then the coordinator is stopped and resumed, and
    the SuperLink is killed while it goes on."""
    place = tmp_path_factory.mktemp("federation")
    recorder = place / "recorder"
    recorder.mkdir()
    (recorder / "sitecustomize.py").write_text(_RECORDER)
    with pytest.MonkeyPatch.context() as patch:
        import os

        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(recorder), os.environ.get("PYTHONPATH")])))
        patch.setenv("WBC_TEST_CONNECTIONS", str(place / "connections"))
        # What rounding took off must survive, too, and the anchors of the round before.
        plan = tiny_plan(ALIGNED_CLINICS, loss=ALIGNED_LOSS, transport={"update_precision": "int8"})
        with running(place / "federation", plan, ALIGNED_CLINICS) as found:
            found.start_coordinator()
            for clinic in found.federation.clinics:
                found.start_clinic(clinic)
            events = found.federation.coordinator / "run" / "events.log"
            wait_for(lambda: events.exists() and "study starts" in events.read_text(), 150, found)
            assert kill(found.processes["coordinator"], "flwr-serverapp")
            assert kill(found.processes["east"], "node.trainer")
            coordinator, east = str(found.federation.coordinator), found.federation.clinics["east"]
            check = json.loads(ask("wbc-client", "check", str(east / "clinic.toml"), "--json").stdout)
            status = json.loads(ask("wbc-server", "status", coordinator, "--json").stdout)
            wait_for(lambda: found.rounds_done() >= 1, 150, found)
            assert ask("wbc-server", "stop", coordinator).returncode == 0
            assert found.processes["coordinator"].wait(30) == 130, found.tell()
            found.start_coordinator("resume")
            wait_for(lambda: kill(found.processes["coordinator"], "link.superlink"), 60, found)
            wait_for(found.federation.report.exists, 200, found)
            assert found.processes["coordinator"].wait(60) == 0
            lines = (place / "connections").read_text().splitlines()
            yield Finished(found, check, status, lines)


def test_after_all_kills_the_model_equals_an_uninterrupted_one_in_process_to_the_bit(
    finished: Finished, tmp_path: Path
) -> None:
    federated = load_file(finished.run.model)
    alone = load_file(same_study_in_process(finished.running.federation, tmp_path / "run"))
    assert federated.keys() == alone.keys()
    assert all(federated[key].tobytes() == alone[key].tobytes() for key in alone)


def test_every_round_is_in_the_journal_once_with_all_clinics(finished: Finished) -> None:
    records = [json.loads(line) for line in finished.run.journal.read_text().splitlines()]
    assert [record["round"] for record in records] == [1, 2, 3]
    assert all(sorted(record["train"]) == ["east", "north", "south"] for record in records)
    assert all((record["refused"], record["missing"]) == ([], []) for record in records)


def test_a_clinics_check_finds_every_hop_of_the_way_in_order(finished: Finished) -> None:
    way = {hop["hop"]: hop for hop in finished.check["way"]}  # type: ignore[attr-defined]
    assert all(hop["ok"] for hop in way.values()), way
    assert {"key", "disk", "proxy", "address", "gateway", "clock", "enrolment", "plan", "bandwidth", "approval"} == set(
        way
    )


def test_status_says_what_runs_and_how_far_the_study_is(finished: Finished) -> None:
    assert finished.status["coordinator"] == "running"
    assert finished.status["study_state"] in ("rounds are running", "waiting")  # its ServerApp was just killed
    assert finished.status["rounds_done"] in (0, 1)
    assert finished.status["enrolled"] == ["east", "north", "south", "west"]
    after = ask("wbc-server", "status", str(finished.running.federation.coordinator), "--json")
    assert json.loads(after.stdout)["study_state"] == "finished"


def test_no_process_of_a_whole_run_ever_tried_to_reach_another_machine(finished: Finished) -> None:
    supernodes = [line for line in finished.connections if "flower-supernode" in line]
    assert supernodes  # the recorder did record
    local = ("127.0.0.1", "localhost", "::1", "/")
    strangers = [line for line in finished.connections if not any(word in line for word in (*local, "None"))]
    assert strangers == []


def test_a_held_out_clinics_ledger_has_descriptions_and_evaluations_alone(finished: Finished) -> None:
    ledger = finished.running.federation.clinics["west"] / "state" / "egress.jsonl"
    assert {json.loads(line)["task"] for line in ledger.read_text().splitlines()} == {"describe", "evaluate"}


def test_a_finished_study_is_not_run_again(finished: Finished) -> None:
    done = ask("wbc-server", "resume", str(finished.running.federation.coordinator))
    assert "finished" in done.stdout
    assert done.returncode == 0


def test_nothing_is_left_running(finished: Finished) -> None:
    state = finished.running.federation.coordinator / "link" / "state.json"
    assert not state.exists()


_ROGUE_PROJECT = """
[project]
name = "wbc-fl"
version = "0.1.0"
[tool.flwr.app]
publisher = "wbc-fl"
[tool.flwr.app.components]
serverapp = "rogue:server"
clientapp = "rogue:client"
"""
_ROGUE = """
import time
from pathlib import Path
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
PLACE = Path({place!r})
client = ClientApp()
server = ServerApp()

@client.query()
def query(message, context):
    (PLACE / "ran-at-a-clinic").touch()
    return Message(RecordDict(), reply_to=message)

@server.main()
def main(grid, context):
    (PLACE / "ran-at-the-coordinator").touch()
    while len(list(grid.get_node_ids())) < 4:
        time.sleep(0.2)
    replies = grid.send_and_receive([Message(RecordDict(), node, "query") for node in grid.get_node_ids()], timeout=60)
    (PLACE / "replies").write_text("\\n".join(repr(reply.has_error() and reply.error.reason) for reply in replies))
"""


def test_a_rogue_bundle_is_refused_at_the_clinics_before_it_runs(finished: Finished, tmp_path: Path) -> None:
    app = tmp_path / "wbc-fl"
    app.mkdir()
    (app / "pyproject.toml").write_text(_ROGUE_PROJECT)
    (app / "rogue.py").write_text(_ROGUE.format(place=str(tmp_path)))
    coordinator = prepare(StudyFolder(finished.running.federation.coordinator), lambda line: None)
    try:
        wait_for(lambda: _submitted(coordinator, app), 90, finished.running)
        wait_for((tmp_path / "replies").exists, 120, finished.running)
    finally:
        coordinator.end()
    replies = (tmp_path / "replies").read_text().splitlines()
    assert len(replies) == 4
    assert all("is not the approved one" in reply for reply in replies), replies
    assert (tmp_path / "ran-at-the-coordinator").exists()
    assert not (tmp_path / "ran-at-a-clinic").exists()


def _submitted(coordinator: Coordinator, app: Path) -> bool:
    for kept in coordinator.kept:
        kept.look()
    try:
        coordinator.flower.submit(app)
    except FlowerUnreachable:
        return False
    return True
