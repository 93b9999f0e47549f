"""The strategy against hand-made replies: when the model is measured, and which figures count."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hand_made import a_study, an_update, commit, counts, grid_of, moves, run, strategy_in, train_round
from wbc_common.wire import (
    Reply,
    RoundReply,
    Task,
)


def test_figures_come_with_the_next_round_and_those_of_the_last_with_a_closing_exchange(tmp_path: Path) -> None:
    seen: list[tuple[str, Task]] = []
    records = run(strategy_in(tmp_path, a_study()), grid_of(moves, seen), rounds=2)
    first, then, closing = seen[:2], seen[2:5], seen[5:]
    assert [(clinic, task.kind) for clinic, task in first] == [("east", "train"), ("north", "train")]
    assert [(clinic, task.kind) for clinic, task in then] == [
        ("east", "train"),
        ("north", "train"),
        ("west", "evaluate"),
    ]
    assert [(clinic, task.split, task.round_number) for clinic, task in closing] == [
        ("east", "val", 2),
        ("north", "val", 2),
        ("west", "all", 2),
    ]
    for record in records:
        assert (set(record["validation"]), set(record["held_out"])) == ({"east", "north"}, {"west"})
        assert set(record["egress"]["west"]) == {"evaluation"}
        assert set(record["egress"]["east"]) == {"update", "evaluation"}


def test_held_out_clinics_measure_the_model_that_training_clinics_receive(tmp_path: Path) -> None:
    seen: list[tuple[str, Task]] = []
    run(strategy_in(tmp_path, a_study()), grid_of(moves, seen), rounds=2)
    models = [task.model for _, task in seen[2:5]]
    for model in models:
        assert model is not None
        assert model["head.bias"] == pytest.approx(np.array([8, 3, 1, 1, 1]))
    last = seen[-1][1].model
    assert last is not None
    assert last["head.bias"] == pytest.approx(np.array([15, 5, 1, 1, 1]))


def test_under_a_case_mix_training_clinics_get_the_bias_that_held_out_ones_measure_with(tmp_path: Path) -> None:
    study = a_study(evaluation={"prediction_prior": "training"})
    seen: list[tuple[str, Task]] = []
    run(strategy_in(tmp_path, study), grid_of(moves, seen), rounds=2)
    received, measured = seen[2][1], seen[4][1]
    assert received.model is not None
    assert measured.model is not None
    assert received.prediction_bias is not None
    assert received.prediction_bias.tolist() == measured.model["head.bias"].tolist()
    assert received.model["head.bias"].tolist() != measured.model["head.bias"].tolist()


def test_more_cells_than_declared_are_no_evaluation_and_the_update_beside_it_counts(tmp_path: Path) -> None:
    def boasts(clinic: str, task: Task) -> Reply:
        reply = moves(clinic, task)
        if clinic == "north" and isinstance(reply, RoundReply) and reply.evaluation is not None:
            return replace(reply, evaluation=counts(6))
        return reply

    first, second = run(strategy_in(tmp_path, a_study()), grid_of(boasts), rounds=2)
    assert list(first["validation"]) == ["east"]
    assert [(entry["clinic"], entry["stage"], entry["round"]) for entry in first["refused"]] == [
        ("north", "evaluation", 1)
    ]
    assert list(second["train"]) == ["east", "north"]
    assert second["refused"] == []


def test_figures_count_where_the_update_beside_them_is_refused(tmp_path: Path) -> None:
    def broken(clinic: str, task: Task) -> Reply:
        reply = moves(clinic, task)
        if task.round_number == 2 and clinic == "north" and isinstance(reply, RoundReply):
            return replace(an_update("north", np.nan, 0.0), evaluation=reply.evaluation)
        return reply

    first, second = run(strategy_in(tmp_path, a_study()), grid_of(broken), rounds=2)
    assert list(first["validation"]) == ["east", "north"]
    assert first["refused"] == []
    assert [(entry["clinic"], entry["stage"]) for entry in second["refused"]] == [("north", "update")]


def test_evaluation_rests_between_its_rounds_but_not_in_the_last(tmp_path: Path) -> None:
    study = a_study(rounds=3, evaluation={"every_rounds": 2})
    records = run(strategy_in(tmp_path, study), grid_of(moves), rounds=3)
    assert [len(record["held_out"]) for record in records] == [0, 1, 1]
    assert [len(record["validation"]) for record in records] == [0, 2, 2]
    assert all(record["refused"] == [] for record in records)


def test_what_a_stranger_record_weighs_in_the_closing_exchange_stops_nothing(tmp_path: Path) -> None:
    train_round(strategy_in(tmp_path, a_study()), grid_of(moves))
    again = strategy_in(tmp_path, a_study(rounds=2))  # resumed: no round is open
    record = commit(again, lambda clinic, task: an_update(clinic, 0.0, 0.0))
    assert [(entry["clinic"], entry["stage"]) for entry in record["refused"]] == [
        (clinic, "evaluation") for clinic in ("east", "north", "west")
    ]
