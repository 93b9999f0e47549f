"""Clinics come and go while they are asked: each answer counts once, and a lost task is asked again."""

import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Error, Message, Metadata, RecordDict
from flwr.app.message import make_message
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.server.superlink.linkstate import LinkStateFactory
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.superlink.federation import NoOpFederationManager

from attending import ScriptedGrid, attending, echo, exchange, parcel, silent
from wbc_common.errors import ClinicAbsent
from wbc_common.wire import Task, encode_task
from wbc_common.wire.packing import make_parcel
from wbc_server.exchange import attendance
from wbc_server.exchange.attendance import AWAY_CODE, LATE_CODE
from wbc_server.exchange.deployment import Deployment
from wbc_server.exchange.participation import content_of
from wbc_server.exchange.shelf import Shelf


def test_records_travel_as_one_parcel_and_come_back_as_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    laid = lengths_laid(monkeypatch)
    grid, flower = attending(tmp_path, {1: echo, 2: echo})
    began = time.monotonic()
    replies = exchange(grid, [1, 2], timeout=60.0)
    assert time.monotonic() - began < 3  # nobody is waited for when all have answered
    assert list(replies) == [1, 2]
    assert "task" in replies[1].content
    assert [list(message.content) for message in flower.sent] == [["parcel"], ["parcel"]]
    assert len(laid) == 1 + 2  # the task, packed once for all, and the answers
    assert Deployment(tmp_path).tasks.last() > 0


def lengths_laid(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of all that is put on a shelf from now on."""
    laid: list[int] = []
    lay = Shelf.lay
    monkeypatch.setattr(Shelf, "lay", lambda self, content: laid.append(len(content)) or lay(self, content))
    return laid


def test_answers_wait_on_disk_for_their_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attendance, "_LOOK_SECONDS", 0.05)
    looks: list[int] = []
    laid = lengths_laid(monkeypatch)

    def late(message: Message) -> Message | None:
        looks.append(1)
        return large(message) if len(looks) > 2 else None

    def large(message: Message) -> Message:
        records = RecordDict({"of": ConfigRecord({"node": message.metadata.dst_node_id, "much": b"x" * 100_000})})
        return Message(parcel(records), reply_to=message)

    grid, _ = attending(tmp_path, {1: late, 2: large, 3: large})
    replies = exchange(grid, [1, 2, 3], timeout=10.0)
    assert [(node, reply.content["of"]["node"]) for node, reply in replies.items()] == [(1, 1), (2, 2), (3, 3)]
    assert len([size for size in laid if size > 100_000]) == 3
    assert [path.name for path in tmp_path.iterdir() if path.is_file() and "bell" not in path.name] == ["nodes.json"]


def test_one_answer_is_taken_from_flower_at_a_time_and_of_those_alone_that_have_sent_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attendance, "_LOOK_SECONDS", 0.05)
    grid, flower = attending(tmp_path, {1: echo, 2: silent, 3: echo})
    assert list(exchange(grid, [1, 2, 3])) == [1, 2, 3]
    assert flower.pulled == [
        [flower.link.asked[0]],
        [flower.link.asked[2]],
    ]  # in the middle of an answer Flower would wait for the rest of it


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


def test_a_task_of_which_flower_says_nothing_more_is_asked_again_when_its_node_asks_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A SuperNode that died and was back before Flower was asked of it; or a gateway that died with the task."""
    monkeypatch.setattr(attendance, "_LOOK_SECONDS", 0.05)
    grid, flower = attending(tmp_path, {1: lambda message: echo(message) if flower.sent[2:] else None, 2: echo})
    flower.empty_handed = {1}
    replies = exchange(grid, [1, 2], timeout=10.0)
    assert [message.metadata.dst_node_id for message in flower.sent] == [1, 2, 1]
    assert all(reply.has_content() for reply in replies.values())


def test_contract_flower_says_nothing_of_a_task_whose_node_was_away_and_is_back() -> None:
    """Why the server needs another sign: Flower tells of a node that is gone only whoever asks before it is back."""
    state = LinkStateFactory(":memory:", NoOpFederationManager(), ObjectStoreFactory()).state()
    node = state.create_node("", "", b"key", 0)
    run = state.create_run(None, None, None, {}, NOOP_FEDERATION_ID, None, "", TaskType.SERVER_APP)
    assert state.activate_node(node, heartbeat_interval=0.05)
    task = state.store_message_ins(_instruction(run, node))
    assert [message.metadata.message_id for message in state.get_message_ins(node, limit=1)] == [task]
    assert not state.activate_node(node, heartbeat_interval=30)  # a second process is refused while the lease lasts
    time.sleep(0.15)
    assert state.activate_node(node, heartbeat_interval=30)
    assert state.get_message_ins(node, limit=1) == []
    assert state.get_message_res({task}, run) == []


def _instruction(run: int, node: int) -> Message:
    sent = Metadata(
        run_id=run,
        message_id="task",
        src_node_id=SUPERLINK_NODE_ID,
        dst_node_id=node,
        reply_to_message_id="",
        group_id="",
        created_at=time.time(),
        ttl=60.0,
        message_type="train",
    )
    return make_message(sent, RecordDict())


def test_a_node_that_asked_for_a_task_before_this_one_was_there_has_not_lost_it(tmp_path: Path) -> None:
    grid, flower = attending(tmp_path, {1: silent})
    flower.deployment.tasks.ring()
    flower.asks_for_a_task(1)
    assert exchange(grid, [1])[1].error.code == LATE_CODE
    assert len(flower.sent) == 1


@pytest.mark.parametrize("answered", [{0}, {0, 1}])
def test_an_answer_to_any_asking_counts_and_one_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answered: set[int]
) -> None:
    monkeypatch.setattr(attendance, "_LOOK_SECONDS", 0.05)

    def slow(message: Message) -> Message | None:
        """Still works when it is taken to have lost its task."""
        asking = flower.link.asked.index(message.metadata.message_id)
        if len(flower.sent) == 1 or asking not in answered:
            return None
        flower.empty_handed.clear()
        return Message(parcel(RecordDict({"to": ConfigRecord({"asking": asking})})), reply_to=message)

    grid, flower = attending(tmp_path, {1: slow})
    flower.empty_handed = {1}
    messages = [Message(encode_task(Task("describe", "hash")), 1, "query.describe")]
    replies = list(grid.send_and_receive(messages, timeout=5.0))
    assert len(flower.sent) == 2
    assert [reply.content["to"]["asking"] for reply in replies] == [0]


def test_a_node_that_loses_its_task_again_and_again_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attendance, "_LOOK_SECONDS", 0.01)
    grid, flower = attending(tmp_path, {1: silent, 2: echo})
    flower.empty_handed = {1}
    replies = exchange(grid, [1, 2], timeout=30.0)
    assert (replies[1].error.code, replies[1].error.reason) == (AWAY_CODE, "it lost its task 20 times")
    assert replies[2].has_content()
    assert len(flower.sent) == 21


def test_what_a_node_sends_unasked_is_nobodys_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower hands a message that a node sends to the coordinator over with the next pull, of whatever node."""
    pull = ScriptedGrid.pull_messages

    def with_another(self: ScriptedGrid, message_ids: Iterable[str]) -> list[Message]:
        return [Message(parcel(RecordDict()), 1, "train"), *pull(self, message_ids)]

    monkeypatch.setattr(ScriptedGrid, "pull_messages", with_another)
    grid, _ = attending(tmp_path, {1: echo})
    assert "task" in exchange(grid, [1])[1].content


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
