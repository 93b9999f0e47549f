"""Waiting for clinics: replies as they come, lost tasks asked again, an end to waiting, and names that must be true."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from wbc_common.errors import ClinicAbsent, ConnectionFailure
from wbc_common.study import StudyConfig, parse_study
from wbc_common.wire import Description, Task, encode_reply, encode_task
from wbc_common.wire.packing import make_parcel, open_parcel, pack, unpack
from wbc_server.exchange import attendance
from wbc_server.exchange.attendance import AWAY_CODE, LATE_CODE, AttendingGrid, await_clinics
from wbc_server.exchange.deployment import Deployment
from wbc_server.exchange.participation import call_roll, content_of
from wbc_server.exchange.shelf import Shelf
from wbc_server.record.round_book import RoundBook
from wbc_server.run_folder import RunFolder
from wbc_server.strategy import WbcStrategy
from wbc_simulations.engine.engines import InProcessGrid

NODES = {1: "east", 2: "north", 3: "west"}
Answer = Callable[[Message], Message | None]


class ScriptedGrid(Grid):
    """Flower's Grid as the network makes it: each node answers a parcel as its script says, or not at all."""

    def __init__(self, answers: dict[int, Answer], there: Iterable[int] = NODES) -> None:
        InProcessGrid(lambda message, context: message, {})  # type: ignore[arg-type]  # gives messages a sender
        self.answers = answers
        self.there = set(there)
        self.sent: list[Message] = []

    def set_run(self, run: object) -> None: ...

    @property
    def run(self) -> object:
        return None

    def create_message(self, *_: object, **__: object) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> list[int]:
        return sorted(self.there)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        first = len(self.sent)
        for message in messages:
            message.metadata.__dict__["_message_id"] = str(len(self.sent))
            self.sent.append(message)
        return [str(number) for number in range(first, len(self.sent))]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        asked = [self.sent[int(message_id)] for message_id in message_ids]
        return [reply for message in asked if (reply := self.answers[message.metadata.dst_node_id](message))]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        raise NotImplementedError


def echo(message: Message) -> Message:
    return Message(make_parcel(open_parcel(message.content)), reply_to=message)


def silent(message: Message) -> None:
    return None


def attending(folder: Path, answers: dict[int, Answer], **options: object) -> tuple[AttendingGrid, ScriptedGrid]:
    deployment = Deployment(folder)
    deployment.write(NODES)
    grid = ScriptedGrid(answers, **options)  # type: ignore[arg-type]
    return AttendingGrid(grid, deployment), grid


def exchange(grid: AttendingGrid, nodes: Iterable[int], timeout: float = 0.3) -> dict[int, Message]:
    records = encode_task(Task("describe", "hash"))
    messages = [Message(records, node, "query.describe") for node in nodes]
    return {reply.metadata.src_node_id: reply for reply in grid.send_and_receive(messages, timeout=timeout)}


def test_records_travel_as_one_parcel_and_come_back_as_records(tmp_path: Path) -> None:
    grid, flower = attending(tmp_path, {1: echo, 2: echo})
    replies = exchange(grid, [1, 2])
    assert list(replies) == [1, 2]
    assert "task" in replies[1].content
    assert [list(message.content) for message in flower.sent] == [["parcel"], ["parcel"]]
    assert flower.sent[0].content is flower.sent[1].content  # packed once for all
    assert Deployment(tmp_path).tasks.last() > 0


def test_answers_wait_on_disk_for_their_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attendance, "_LOOK_SECONDS", 0.05)
    looks: list[int] = []
    laid: list[int] = []
    lay = Shelf.lay
    monkeypatch.setattr(Shelf, "lay", lambda self, content: laid.append(len(content)) or lay(self, content))

    def late(message: Message) -> Message | None:
        looks.append(1)
        return large(message) if len(looks) > 2 else None

    def large(message: Message) -> Message:
        records = RecordDict({"of": ConfigRecord({"node": message.metadata.dst_node_id, "much": b"x" * 100_000})})
        return Message(make_parcel(pack(records)), reply_to=message)

    grid, _ = attending(tmp_path, {1: late, 2: large, 3: large})
    replies = exchange(grid, [1, 2, 3], timeout=10.0)
    assert [(node, reply.content["of"]["node"]) for node, reply in replies.items()] == [(1, 1), (2, 2), (3, 3)]
    assert len([size for size in laid if size > 100_000]) == 3
    assert [path.name for path in tmp_path.iterdir() if path.is_file() and "bell" not in path.name] == ["nodes.json"]


def test_one_answer_is_taken_from_flower_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    pull = ScriptedGrid.pull_messages

    def counting(self: ScriptedGrid, message_ids: Iterable[str]) -> list[Message]:
        wanted = list(message_ids)
        asked.append(len(wanted))
        return pull(self, wanted)

    monkeypatch.setattr(ScriptedGrid, "pull_messages", counting)
    grid, _ = attending(tmp_path, {1: echo, 2: echo, 3: echo})
    assert list(exchange(grid, [1, 2, 3])) == [1, 2, 3]
    assert asked == [1, 1, 1]


def test_who_does_not_answer_in_time_is_late_in_its_own_name(tmp_path: Path) -> None:
    grid, _ = attending(tmp_path, {1: echo, 2: silent})
    replies = exchange(grid, [1, 2])
    assert replies[2].error.code == LATE_CODE
    with pytest.raises(ClinicAbsent):
        content_of(replies[2])


def test_a_lost_task_is_asked_again_once_the_clinic_is_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attendance, "_LOOK_SECONDS", 0.1)
    asked = []

    def dies_once(message: Message) -> Message:
        asked.append(message)
        if len(asked) == 1:
            flower.there.discard(1)
            return Message(Error(ErrorCode.NODE_UNAVAILABLE, "gone"), reply_to=message)
        return echo(message)

    def comes_back(message: Message) -> Message | None:
        flower.there.add(1)  # while north is still busy
        return echo(message) if asked[1:] else None

    grid, flower = attending(tmp_path, {1: dies_once, 2: comes_back})
    replies = exchange(grid, [1, 2], timeout=10.0)
    assert len(asked) == 2
    assert all(reply.has_content() for reply in replies.values())


def test_who_stays_away_is_named_at_the_end_of_the_time(tmp_path: Path) -> None:
    def gone(message: Message) -> Message:
        return Message(Error(ErrorCode.NODE_UNAVAILABLE, "gone"), reply_to=message)

    grid, _ = attending(tmp_path, {1: gone}, there=[])
    assert exchange(grid, [1])[1].error.code == AWAY_CODE


def test_nobody_waits_for_a_clinic_whose_key_was_revoked(tmp_path: Path) -> None:
    def gone(message: Message) -> Message:
        Deployment(tmp_path).write({2: "north"})
        return Message(Error(ErrorCode.NODE_UNAVAILABLE, "gone"), reply_to=message)

    grid, _ = attending(tmp_path, {1: gone}, there=[])
    began = time.monotonic()
    assert exchange(grid, [1], timeout=60.0)[1].error.code == AWAY_CODE
    assert time.monotonic() - began < 30


def test_a_task_that_failed_at_the_clinic_is_not_asked_again(tmp_path: Path) -> None:
    grid, flower = attending(
        tmp_path, {1: lambda message: Message(Error(ErrorCode.LOAD_CLIENT_APP_EXCEPTION, "no"), reply_to=message)}
    )
    assert exchange(grid, [1])[1].error.reason == "no"
    assert len(flower.sent) == 1


@pytest.mark.parametrize(
    "records",
    [RecordDict(), RecordDict({"parcel": ConfigRecord()}), make_parcel(b"no records"), encode_task(Task("train", "h"))],
)
def test_a_reply_that_is_no_parcel_is_that_clinics_error(tmp_path: Path, records: RecordDict) -> None:
    grid, _ = attending(tmp_path, {1: lambda message: Message(records, reply_to=message)})
    assert exchange(grid, [1])[1].has_error()


def test_a_parcel_gives_back_the_same_records() -> None:
    records = encode_task(Task("train", "hash", 2, {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}))
    again = unpack(open_parcel(make_parcel(pack(records))))
    assert again == records


def test_a_start_waits_for_the_wanted_clinics_and_goes_on_with_those_that_came() -> None:
    grid = ScriptedGrid({}, there=[1, 2, 99])
    assert await_clinics(grid, lambda: NODES, ["east", "north"], 5.0) == {1: "east", 2: "north"}
    assert await_clinics(grid, lambda: NODES, ["east", "west"], 0.1) == {1: "east"}
    with pytest.raises(ConnectionFailure, match="no clinic came"):
        await_clinics(grid, lambda: NODES, ["west"], 0.1)


def test_a_key_that_is_replaced_while_a_start_waits_is_seen(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    deployment.write({1: "east", 2: "north"})

    class Replacing(ScriptedGrid):
        def get_node_ids(self) -> list[int]:
            deployment.write({1: "east", 3: "north"})  # and the clinic comes with its new key
            return [1, 3]

    began = time.monotonic()
    assert await_clinics(Replacing({}), deployment.clinics, ["east", "north"], 20.0) == {1: "east", 3: "north"}
    assert time.monotonic() - began < 10


def a_study(quorum: float = 0.5) -> StudyConfig:
    clinics = {"train": ["east", "north"], "held_out": ["west"]}
    return parse_study({"name": "s", "clinics": clinics, "participation": {"quorum": quorum}}, "test")


def describes(clinic: str) -> Answer:
    description = Description(clinic, np.full((3, 5), 2.0))
    return lambda message: Message(make_parcel(pack(encode_reply(description))), reply_to=message)


def test_a_clinic_that_calls_itself_by_anothers_name_is_left_out(tmp_path: Path) -> None:
    grid, _ = attending(tmp_path, {1: describes("east"), 2: describes("west"), 3: describes("west")})
    roster = call_roll(grid, a_study(), 1.0, NODES)
    assert roster.nodes == {"east": 1, "west": 3}
    assert roster.absent == ("north",)
    assert roster.train == ("east",)


def test_a_roll_below_the_quorum_stops_the_study(tmp_path: Path) -> None:
    grid, _ = attending(tmp_path, {1: describes("east"), 2: silent, 3: describes("west")})
    with pytest.raises(ConnectionFailure, match="1 training clinics answered, 2 are needed"):
        call_roll(grid, a_study(quorum=1.0), 0.3, NODES)


def test_a_round_below_the_quorum_is_not_kept_and_an_absent_clinic_stands_in_every_record(tmp_path: Path) -> None:
    grid, _ = attending(tmp_path, {1: describes("east"), 3: describes("west")})
    study = a_study()
    roster = call_roll(grid, study, 1.0, {1: "east", 3: "west"})
    book = RoundBook(RunFolder(tmp_path), study, roster)
    strategy = WbcStrategy(study, roster, book, 0.3)
    book.open_round(1)
    assert [entry["clinic"] for entry in book._open["missing"]] == ["north"]
    question = Message(RecordDict(), 1, "train")
    with pytest.raises(ConnectionFailure, match="updates of 0 of 2"):
        strategy.aggregate_train(1, [Message(Error(LATE_CODE, "late"), reply_to=question)])
    assert book.rounds_done == 0
