"""The roll call: who counts as a clinic of the study, and what stops it before round 1."""

import logging
from collections.abc import Callable

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict

from wbc_common.errors import ConnectionFailure, UpdateRefused
from wbc_common.study import StudyConfig, parse_study
from wbc_common.wire import Description, Task, decode_task, encode_error, encode_reply
from wbc_server.exchange.participation import Roster, call_roll, content_of, instruct
from wbc_simulations.engine.engines import InProcessGrid

Answer = Callable[[Message], Message]


def a_study() -> StudyConfig:
    clinics = {"train": ["north", "east"], "held_out": ["west"]}
    return parse_study({"name": "roll", "clinics": clinics}, "test")


def says(clinic: str, counts: object = None) -> Answer:
    """An answer of that name; 2, 1 and 1 cells of each of five classes in train, val and test."""
    counts = np.array([[2.0] * 5, [1.0] * 5, [1.0] * 5]) if counts is None else np.asarray(counts)
    return lambda message: Message(encode_reply(Description(clinic, counts)), reply_to=message)


def fails(message: Message) -> Message:
    return Message(encode_error("data", "00ff"), reply_to=message)


def roll(*answers: Answer) -> Roster:
    """Call the roll of nodes 1, 2, …, each with its answer."""

    def client(message: Message, context: Context) -> Message:
        return answers[context.node_id - 1](message)

    grid = InProcessGrid(client, {number: {} for number in range(1, len(answers) + 1)})  # type: ignore[arg-type]
    return call_roll(grid, a_study(), 1.0)


def test_clinics_are_found_by_name_whatever_their_nodes() -> None:
    roster = roll(says("west"), says("north"), says("east"))
    assert roster.nodes == {"east": 3, "north": 2, "west": 1}
    assert list(roster.nodes) == ["east", "north", "west"]
    assert (roster.train, roster.held_out) == (("east", "north"), ("west",))
    assert [roster.clinic_of(node) for node in (1, 2, 3, 4)] == ["west", "north", "east", None]


def test_a_stranger_is_left_out_with_a_word_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        roster = roll(says("mallory"), says("west"), says("north"), says("east"))
    assert "mallory" not in roster.nodes
    assert roster.clinic_of(1) is None
    assert "node 1 left out" in caplog.text


def test_two_nodes_of_one_name_stop_the_study_and_the_name_is_said() -> None:
    with pytest.raises(ConnectionFailure, match="two nodes say that they are clinic 'east'"):
        roll(says("east"), says("north"), says("west"), says("east"))


def test_missing_clinics_are_named_all_at_once() -> None:
    with pytest.raises(ConnectionFailure, match="no usable answer from east, west"):
        roll(says("north"))


def test_a_clinic_that_reports_an_error_is_missing() -> None:
    with pytest.raises(ConnectionFailure, match="no usable answer from east"):
        roll(fails, says("north"), says("west"))


@pytest.mark.parametrize(
    "counts",
    [
        np.ones((2, 5)),
        np.ones((3, 4)),
        np.ones((3, 5)) * np.nan,
        np.ones((3, 5)) * np.inf,
        -np.ones((3, 5)),
        np.ones(5),
        np.full((3, 5), 2.1e7),
        np.full((3, 5), 1e308),
    ],
    ids=["two splits", "four classes", "nan", "infinite", "negative", "one axis", "too many", "far too many"],
)
def test_a_malformed_description_does_not_count(counts: np.ndarray) -> None:
    with pytest.raises(ConnectionFailure, match="no usable answer from east"):
        roll(says("east", counts), says("north"), says("west"))


def test_a_malformed_description_does_not_make_its_namesake_a_second_node() -> None:
    roster = roll(says("east", np.ones((2, 5))), says("north"), says("west"), says("east"))
    assert roster.nodes["east"] == 4


def test_an_answer_with_other_records_does_not_count() -> None:
    def chatters(message: Message) -> Message:
        return Message(RecordDict({"clinic": ConfigRecord({"clinic": "east"})}), reply_to=message)

    with pytest.raises(ConnectionFailure, match="east"):
        roll(chatters, says("north"), says("west"))


def test_the_roll_asks_for_descriptions_and_shows_no_model() -> None:
    asked: list[Task] = []

    def listens(name: str) -> Answer:
        def answer(message: Message) -> Message:
            asked.append(decode_task(message.content))
            return says(name)(message)

        return answer

    roll(listens("east"), listens("north"), listens("west"))
    assert asked == [Task("describe", a_study().hash)] * 3


def test_training_counts_come_in_the_order_of_the_training_clinics() -> None:
    north = np.zeros((3, 5))
    north[0, 0] = 7
    roster = roll(says("north", north), says("west"), says("east"))
    assert roster.training_counts().tolist() == [[2.0] * 5, [7.0, 0.0, 0.0, 0.0, 0.0]]


def test_declared_cells_add_shares_of_coarse_labels_to_whole_cells() -> None:
    counts = np.zeros((3, 5))
    counts[0, :3] = 1 / 3  # one coarse cell
    counts[2, 0] = 4
    roster = roll(says("east", counts), says("north"), says("west"))
    assert [roster.declared_cells("east", split) for split in ("train", "val", "test", "all")] == [1, 0, 4, 5]


def test_a_task_goes_to_the_clinics_named_and_carries_its_round() -> None:
    roster = roll(says("west"), says("north"), says("east"))
    messages = instruct(Task("train", "plan", 7, {}), roster, ("east", "north"))
    assert [(message.metadata.dst_node_id, message.metadata.group_id) for message in messages] == [(3, "7"), (2, "7")]
    assert decode_task(messages[0].content).round_number == 7


def test_an_error_reply_has_no_content_to_use() -> None:
    roster = roll(says("west"), says("north"), says("east"))
    (message,) = instruct(Task("describe", "plan"), roster, ("east",))
    with pytest.raises(UpdateRefused, match=r"the clinic reports an error: data \(reference 00ff\)"):
        content_of(fails(message))


def test_an_error_reason_is_one_line_of_printable_signs_and_cut() -> None:
    roster = roll(says("west"), says("north"), says("east"))
    (message,) = instruct(Task("describe", "plan"), roster, ("east",))
    reason = "data\r\n\x1b[31mround 9: all is well\u202e" + "x" * 10_000
    with pytest.raises(UpdateRefused) as caught:
        content_of(Message(Error(1000, reason), reply_to=message))
    problem = caught.value.problem
    assert problem.startswith("the clinic reports an error: data [31mround 9: all is well xxx")
    assert problem.isprintable()
    assert len(problem) == len("the clinic reports an error: ") + 200
