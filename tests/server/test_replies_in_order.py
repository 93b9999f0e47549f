"""Replies by clinic in name order, however they arrive."""

from collections.abc import Iterator

import pytest
from flwr.app import Message, RecordDict

from wbc_server.exchange.participation import Roster, in_order
from wbc_simulations.engine.engines import InProcessGrid

CLINICS = ("a", "b", "c")
ROSTER = Roster({"a": 1, "b": 2, "c": 3}, {}, CLINICS, ())


def replies_from(*nodes: int) -> list[Message]:
    grid = InProcessGrid(lambda message, context: Message(RecordDict(), reply_to=message), {})  # type: ignore[arg-type]
    sent = [grid.create_message(RecordDict(), "train", node, "1") for node in nodes]
    return [Message(RecordDict(), reply_to=message) for message in sent]


def names(replies: Iterator[tuple[str, Message]]) -> list[str]:
    return [clinic for clinic, _ in replies]


@pytest.mark.parametrize("arrival", [(1, 2, 3), (1, 3, 2), (2, 1, 3), (2, 3, 1), (3, 1, 2), (3, 2, 1)])
def test_replies_come_out_in_name_order_however_they_arrive(arrival: tuple[int, ...]) -> None:
    found = list(in_order(replies_from(*arrival), CLINICS, ROSTER))
    assert [(clinic, reply.metadata.src_node_id) for clinic, reply in found] == [("a", 1), ("b", 2), ("c", 3)]


def test_a_lost_reply_holds_back_nothing_but_itself() -> None:
    assert names(in_order(replies_from(3, 2), CLINICS, ROSTER)) == ["b", "c"]
    assert names(in_order(replies_from(), CLINICS, ROSTER)) == []


def test_strangers_second_replies_and_clinics_not_asked_are_dropped() -> None:
    arrived = replies_from(9, 2, 2, 1, 1, 3)
    found = list(in_order(arrived, ("a", "b"), ROSTER))
    assert [clinic for clinic, _ in found] == ["a", "b"]
    assert found[1][1] is arrived[1]
    assert found[0][1] is arrived[3]


def test_a_reply_whose_turn_it_is_is_not_held_for_the_next_one() -> None:
    def arriving(*nodes: int) -> Iterator[Message]:
        yield from replies_from(*nodes)
        raise AssertionError("asked for more than it needed")

    in_turn = in_order(arriving(1, 2), CLINICS, ROSTER)
    assert [next(in_turn)[0], next(in_turn)[0]] == ["a", "b"]
    early = in_order(arriving(2, 1), CLINICS, ROSTER)
    assert [next(early)[0], next(early)[0]] == ["a", "b"]
    with pytest.raises(AssertionError, match="more than it needed"):
        next(in_order(arriving(2, 3), CLINICS, ROSTER))
