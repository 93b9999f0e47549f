"""The strategy against hand-made replies: which class sums are asked for, and who gets their total."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hand_made import COUNTS, a_study, grid_of, moves, run, strategy_in, train_round
from wbc_common.wire import (
    ClassSums,
    Reply,
    RoundReply,
    Task,
)


def unit_sums(clinic: str) -> ClassSums:
    """All features point to (1, 0): each sum is as long as its count."""
    cells = np.array(COUNTS[clinic])
    return ClassSums(np.stack([cells, np.zeros(5)], axis=1), cells)


def moves_and_sums(clinic: str, task: Task) -> Reply:
    reply = moves(clinic, task)
    return replace(reply, sums=unit_sums(clinic)) if isinstance(reply, RoundReply) else reply


ALIGNED = {"alignment_weight": 0.1, "alignment_warmup": 0.0}
THREE = ("east", "north", "west")


def test_the_total_of_class_sums_goes_with_the_next_round_to_every_clinic_that_told_its_own(tmp_path: Path) -> None:
    seen: list[tuple[str, Task]] = []
    run(strategy_in(tmp_path, a_study(train=THREE, loss=ALIGNED)), grid_of(moves_and_sums, seen), rounds=2)
    training = [task for _, task in seen if task.kind == "train"]
    assert [task.round_number for task in training] == [1, 1, 1, 2, 2, 2]
    assert [task.totals for task in training[:3]] == [None, None, None]
    for task in training[3:]:
        assert task.totals is not None
        assert task.totals.counts.tolist() == [14, 2, 0, 0, 0]
        assert task.totals.sums.tolist() == [[14, 0], [2, 0], [0, 0], [0, 0], [0, 0]]


@pytest.mark.parametrize(
    ("train", "loss"),
    [
        (("east", "north"), {"alignment_weight": 0.0}),
        (THREE, {"alignment_weight": 0.1, "alignment_warmup": 1.0}),
        (("east",), {"alignment_weight": 0.0}),
    ],
    ids=["switched off", "warming up", "one clinic"],
)
def test_no_class_sums_are_expected_or_sent_while_they_serve_nothing(
    tmp_path: Path, train: tuple[str, ...], loss: dict[str, float]
) -> None:
    seen: list[tuple[str, Task]] = []
    records = run(strategy_in(tmp_path, a_study(train=train, loss=loss)), grid_of(moves, seen), rounds=2)
    assert {task.totals for _, task in seen} == {None}
    assert all(record["refused"] == [] and "server_state" not in record for record in records)


def norths_sums_are_bad(clinic: str, task: Task) -> Reply:
    reply = moves_and_sums(clinic, task)
    if clinic == "north" and isinstance(reply, RoundReply) and reply.sums is not None:
        return replace(reply, sums=ClassSums(100 * reply.sums.sums, reply.sums.counts))  # longer than cells can give
    return reply


def test_a_clinic_whose_sums_are_refused_trains_without_totals_and_its_update_counts(tmp_path: Path) -> None:
    strategy = strategy_in(tmp_path, a_study(train=(*THREE, "south"), loss=ALIGNED))
    seen: list[tuple[str, Task]] = []
    first, _ = run(strategy, grid_of(norths_sums_are_bad, seen), rounds=2)
    totals = {clinic: task.totals for clinic, task in seen if task.round_number == 2 and task.kind == "train"}
    assert totals["north"] is None
    assert totals["east"] is not None
    assert totals["east"].counts.tolist() == [18, 0, 0, 0, 0]
    assert [(entry["clinic"], entry["stage"]) for entry in first["refused"]] == [("north", "class-sums")]
    assert list(first["train"]) == ["east", "north", "south", "west"]


def test_clinics_are_asked_in_name_order_whether_or_not_their_sums_are_in_the_pool(tmp_path: Path) -> None:
    strategy = strategy_in(tmp_path, a_study(train=(*THREE, "south"), loss=ALIGNED))
    seen: list[tuple[str, Task]] = []
    run(strategy, grid_of(norths_sums_are_bad, seen), rounds=2)
    second = [clinic for clinic, task in seen if task.round_number == 2 and task.kind == "train"]
    assert second == ["east", "north", "south", "west"]


def test_where_the_sums_of_two_clinics_are_left_they_go_to_nobody(tmp_path: Path) -> None:
    seen: list[tuple[str, Task]] = []
    run(strategy_in(tmp_path, a_study(train=THREE, loss=ALIGNED)), grid_of(norths_sums_are_bad, seen), rounds=2)
    assert {task.totals for _, task in seen} == {None}


def test_a_resumed_study_sends_the_anchors_of_the_round_before_the_stop(tmp_path: Path) -> None:
    train_round(strategy_in(tmp_path, a_study(train=THREE, loss=ALIGNED)), grid_of(moves_and_sums))
    seen: list[tuple[str, Task]] = []
    train_round(strategy_in(tmp_path, a_study(train=THREE, loss=ALIGNED)), grid_of(moves_and_sums, seen))
    totals = [task.totals for _, task in seen if task.kind == "train"]
    assert [total.counts.tolist() for total in totals if total is not None] == [[14, 2, 0, 0, 0]] * 3
