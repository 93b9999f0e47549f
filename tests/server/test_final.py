"""The last measurement: which cells are asked about, and that a bad answer costs that clinic only."""

from collections.abc import Callable

import numpy as np
import pytest
from flwr.app import Context, Message

from wbc_common.errors import ConnectionFailure
from wbc_common.study import parse_study
from wbc_common.wire import Evaluation, Task, decode_task, encode_error, encode_reply
from wbc_server.exchange.participation import Roster
from wbc_server.final.measurement import Measured, measure, require_measured
from wbc_simulations.engine.engines import InProcessGrid

STUDY = parse_study(
    {
        "name": "final",
        "rounds": 3,
        "clinics": {"train": ["east"], "held_out": ["west"]},
        "loss": {"alignment_weight": 0.0},
        "evaluation": {"bootstrap_replicates": 4},
    },
    "test",
)
MODEL = {"head.bias": np.arange(5, dtype=np.float32)}
COUNTS = np.array([[9.0] * 5, [1.0] * 5, [2.0] * 5])  # 45, 5 and 10 cells
ROSTER = Roster({"east": 1, "west": 2}, {"east": COUNTS, "west": COUNTS}, ("east",), ("west",))


def evaluation(cells: int, replicates: int = 4) -> Evaluation:
    confusion = np.zeros((5, 5), dtype=np.int64)
    confusion[0, 0] = cells
    return Evaluation(confusion, np.tile(confusion, (replicates, 1, 1)), np.zeros(2, dtype=np.int64))


def measured(answer: Callable[[Task], Evaluation]) -> Measured:
    """West answers by `answer`, east rightly."""

    def client(message: Message, context: Context) -> Message:
        task = decode_task(message.content)
        found = evaluation(10) if context.node_id == 1 else answer(task)
        return Message(encode_reply(found), reply_to=message)

    grid = InProcessGrid(client, {1: {}, 2: {}})  # type: ignore[arg-type]
    return measure(grid, STUDY, ROSTER, MODEL, 1.0)


def test_training_clinics_are_asked_for_test_cells_and_held_out_ones_for_all() -> None:
    tasks: list[Task] = []

    def client(message: Message, context: Context) -> Message:
        tasks.append(decode_task(message.content))
        return Message(encode_reply(evaluation(1)), reply_to=message)

    measure(InProcessGrid(client, {1: {}, 2: {}}), STUDY, ROSTER, MODEL, 1.0)  # type: ignore[arg-type]
    assert [(task.split, task.replicates) for task in tasks] == [("test", 4), ("all", 4)]
    assert all(task.model is not None and (task.model["head.bias"] == MODEL["head.bias"]).all() for task in tasks)


def test_answers_and_their_sizes_come_by_clinic() -> None:
    final = measured(lambda task: evaluation(60))
    assert {clinic: int(answer.confusion.sum()) for clinic, answer in final.found.items()} == {"east": 10, "west": 60}
    assert set(final.sent_bytes) == {"east", "west"}
    assert final.refused == ()
    assert min(final.sent_bytes.values()) > 4 * 25 * 4  # at least the draws


@pytest.mark.parametrize(
    "answer",
    [evaluation(61), evaluation(-1), evaluation(10, replicates=3)],
    ids=["more cells than it has", "negative", "fewer draws than asked for"],
)
def test_a_bad_answer_is_refused_and_the_other_clinic_counts(
    answer: Evaluation, caplog: pytest.LogCaptureFixture
) -> None:
    final = measured(lambda task: answer)
    assert set(final.found) == {"east"}
    assert [(entry["clinic"], entry["stage"], entry["kind"]) for entry in final.refused] == [
        ("west", "final evaluation", "refused")
    ]
    assert "west's final evaluation refused" in caplog.text


def test_a_clinic_that_fails_is_left_out() -> None:
    def client(message: Message, context: Context) -> Message:
        if context.node_id == 2:
            return Message(encode_error("failed", "00ff"), reply_to=message)
        return Message(encode_reply(evaluation(10)), reply_to=message)

    final = measure(InProcessGrid(client, {1: {}, 2: {}}), STUDY, ROSTER, MODEL, 1.0)  # type: ignore[arg-type]
    assert (set(final.found), set(final.sent_bytes)) == ({"east"}, {"east"})
    assert final.refused == (
        {
            "round": 3,
            "clinic": "west",
            "stage": "final evaluation",
            "kind": "refused",
            "reason": "the clinic reports an error: failed (reference 00ff)",
        },
    )


def test_a_study_does_not_end_without_a_held_out_clinic_that_could_still_be_measured() -> None:
    final = Measured({"east": evaluation(10)}, {}, ())
    require_measured(final, {"east"})
    with pytest.raises(ConnectionFailure, match="no final evaluation of the held-out clinics west") as caught:
        require_measured(final, {"east", "west"})
    assert "wbc-server resume FOLDER" in caught.value.remedy
