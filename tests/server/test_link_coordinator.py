"""The coordinator between register and Flower: whatever ends it half-way, the next look goes on from what is there."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from wbc_common.keys import make_key
from wbc_server.exchange.deployment import Deployment, events_file
from wbc_server.link import coordinator as module
from wbc_server.link.coordinator import Coordinator
from wbc_server.link.flower import FlowerUnreachable, Node
from wbc_server.link.folder import StudyFolder
from wbc_server.link.register import changing, read_register, write_register
from wbc_server.link.setup import make_folder

CLINICS = ("munich", "vienna", "zurich", "berlin")


@dataclass
class ScriptedFlower:
    """Flower as it answers: a key is registered once, and one that was removed never again."""

    known: dict[bytes, Node] = field(default_factory=dict)
    before_register: Callable[[str], None] = lambda clinic: None
    after_register: Callable[[str], None] = lambda clinic: None

    def register(self, pem: bytes, clinic: str) -> int:
        self.before_register(clinic)
        if pem in self.known:
            raise FlowerUnreachable("the SuperLink refuses register-node: Public key already in use.", remedy="-")
        self.known[pem] = Node(100 + len(self.known), "registered")
        self.after_register(clinic)
        return self.known[pem].number

    def unregister(self, node_id: int) -> None:
        for pem, node in self.known.items():
            if node.number == node_id:
                self.known[pem] = Node(node_id, "unregistered")

    def nodes(self) -> dict[bytes, Node]:
        return dict(self.known)


@dataclass
class Bench:
    """A coordinator without processes, what it said, and the Flower that it asks."""

    folder: StudyFolder
    flower: ScriptedFlower
    coordinator: Coordinator
    said: list[str]
    keys: Path

    def enrol(self, clinic: str, name: str | None = None, *, replace: bool = False) -> None:
        line = make_key(self.keys / (name or clinic), clinic)
        register = read_register(self.folder.register_file)
        write_register(
            self.folder.register_file, register.enrol(self.folder.study(), clinic, line, None, replace=replace)
        )

    def look(self) -> None:
        self.coordinator._look_after_flower()

    def numbers(self) -> dict[str, int | None]:
        return {clinic: entry.node_id for clinic, entry in read_register(self.folder.register_file).active().items()}


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    folder = make_folder(tmp_path / "study", hosts=["localhost"], port=8443, bind="127.0.0.1", study=None)
    folder.link.mkdir()
    flower, said = ScriptedFlower(), []
    coordinator = Coordinator(folder, [], flower, Deployment(folder.link), said.append, tmp_path)  # type: ignore[arg-type]
    monkeypatch.setattr(coordinator, "_look_after_run", lambda: None)
    made = Bench(folder, flower, coordinator, said, tmp_path)
    made.enrol("munich")
    made.enrol("vienna")
    return made


def fails_for(name: str, error: BaseException) -> Callable[[str], None]:
    def fail(clinic: str) -> None:
        if clinic == name:
            raise error

    return fail


def test_a_clinic_that_was_registered_keeps_its_number_when_the_next_one_fails(bench: Bench) -> None:
    bench.flower.before_register = fails_for("vienna", FlowerUnreachable("no answer", remedy="-"))
    bench.look()
    assert bench.numbers() == {"munich": 100, "vienna": None}
    bench.flower.before_register = lambda clinic: None
    bench.look()
    assert bench.numbers() == {"munich": 100, "vienna": 101}
    assert Deployment(bench.folder.link).clinics() == {100: "munich", 101: "vienna"}


@pytest.mark.parametrize("end", [KeyboardInterrupt(), FlowerUnreachable("no answer in time", remedy="-")])
def test_a_key_that_flower_took_before_the_coordinator_ended_is_found_again(bench: Bench, end: BaseException) -> None:
    bench.flower.after_register = fails_for("munich", end)
    with suppress(KeyboardInterrupt):
        bench.look()
    assert bench.numbers() == {"munich": None, "vienna": None}
    bench.look()
    assert Deployment(bench.folder.link).clinics() == {100: "munich", 101: "vienna"}


def test_a_revoked_key_is_removed_even_if_its_number_was_never_written_down(bench: Bench) -> None:
    bench.flower.after_register = fails_for("munich", FlowerUnreachable("no answer in time", remedy="-"))
    bench.look()
    write_register(bench.folder.register_file, read_register(bench.folder.register_file).revoke("munich"))
    bench.look()
    assert sorted((node.number, node.status) for node in bench.flower.known.values()) == [
        (100, "unregistered"),
        (101, "registered"),
    ]


def test_a_key_that_flower_has_removed_is_named_and_the_other_clinics_go_on(bench: Bench) -> None:
    bench.look()
    bench.flower.unregister(100)
    bench.enrol("zurich")
    bench.look()
    assert bench.numbers()["zurich"] == 102
    assert "key of clinic munich for good" in " ".join(bench.said)


def test_an_enrolment_that_waited_for_the_register_is_not_missed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = ["zurich"]

    @contextmanager
    def contested(path: Path) -> Iterator[None]:
        """The lock, for which another command waits and writes as soon as it is free."""
        with changing(path):
            yield
        if waiting:
            bench.enrol(waiting.pop())

    monkeypatch.setattr(module, "changing", contested)
    bench.look()
    bench.look()
    assert bench.numbers() == {"munich": 100, "vienna": 101, "zurich": 102}


def test_two_writes_within_a_tick_of_the_clock_are_two(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    bench.look()
    before = bench.folder.register_file.stat().st_mtime_ns
    bench.enrol("zurich")
    os.utime(bench.folder.register_file, ns=(before, before))
    bench.look()
    assert bench.numbers()["zurich"] == 102


def test_a_flower_that_stays_away_is_said_once_it_should_have_started(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    bench.flower.before_register = fails_for("munich", FlowerUnreachable("no\nanswer", remedy="see the log"))
    with caplog.at_level(logging.WARNING):
        for _ in range(100):  # seconds
            bench.look()
            now[0] += 1
    assert [record.getMessage() for record in caplog.records] == [
        f"asked in vain for {seconds} s, asking on: no answer next step: see the log" for seconds in (30, 90)
    ]


def test_a_resumed_coordinator_tells_new_events_alone_and_each_once_it_is_whole(bench: Bench) -> None:
    path = events_file(bench.folder.run)
    path.parent.mkdir()
    path.write_text("an earlier start\n", encoding="utf-8")
    bench.coordinator._pass_over_earlier_events()
    bench.coordinator._tell_events()
    assert bench.said == []
    with path.open("a", encoding="utf-8") as file:
        file.write("round 1: Zürich\nround 2")
        file.flush()
        bench.coordinator._tell_events()
        file.write(" is kept\n")
    bench.coordinator._tell_events()
    bench.coordinator._tell_events()
    assert bench.said == ["round 1: Zürich", "round 2 is kept"]
