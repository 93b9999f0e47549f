"""The strategy against hand-made replies: what is asked, which updates count, and what becomes of the model."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord

from hand_made import COUNTS, NODES, a_model, a_study, an_update, commit, grid_of, moves, strategy_in, train_round
from wbc_common.errors import ConnectionFailure
from wbc_common.wire import (
    Arrays,
    Reply,
    RoundReply,
    Task,
    Update,
)


def test_the_model_becomes_the_class_count_aware_average(tmp_path: Path) -> None:
    # N = (8, 2), mean 5, so a = (5/8, 5/2); u = 6·5/8 = 3.75 and 2·5/8 + 2·5/2 = 6.25: east holds 3.75/10.
    # v of class 0: 6 + 0.5·6·0.8 = 8.4 and 2 + 0.5·4·0.8 = 3.6: east 0.7. Of class 1: 0.6 and 2.4: east 0.2.
    model = train_round(strategy_in(tmp_path, a_study()), grid_of(moves))
    assert model["backbone.weight"] == pytest.approx(np.full(3, 1 + 8 * 0.375))
    assert model["head.bias"] == pytest.approx(np.array([1 + 7, 1 + 2, 1, 1, 1]))
    assert model["head.weight"] == pytest.approx(np.array([[8, 8], [3, 3], [1, 1], [1, 1], [1, 1]]))
    assert {value.dtype for value in model.values()} == {np.dtype(np.float32)}


def test_the_model_becomes_fedavgs_average(tmp_path: Path) -> None:
    # 6 and 4 cells: east holds 0.6 of everything, also of the rows of classes that nobody has.
    model = train_round(strategy_in(tmp_path, a_study(aggregation={"rule": "fedavg"})), grid_of(moves))
    assert model["backbone.weight"] == pytest.approx(np.full(3, 1 + 8 * 0.6))
    assert model["head.bias"] == pytest.approx(np.full(5, 1 + 10 * 0.6))


def test_the_servers_step_size_scales_the_average(tmp_path: Path) -> None:
    study = a_study(aggregation={"rule": "fedavg", "step_size": 0.5})
    model = train_round(strategy_in(tmp_path, study), grid_of(moves))
    assert model["head.bias"] == pytest.approx(np.full(5, 1 + 0.5 * 6))


def test_a_missing_clinic_is_recorded_and_the_others_decide(tmp_path: Path) -> None:
    strategy = strategy_in(tmp_path, a_study())
    model = train_round(strategy, grid_of(moves), without=("north",))
    assert model["backbone.weight"] == pytest.approx(np.full(3, 9.0))
    record = commit(strategy)
    assert (record["missing"], record["refused"], list(record["train"])) == (["north"], [], ["east"])


def test_when_every_update_is_refused_the_model_stays_and_the_round_counts(tmp_path: Path) -> None:
    strategy = strategy_in(tmp_path, a_study())
    model = train_round(strategy, grid_of(lambda clinic, task: an_update(clinic, np.nan, 0.0)))
    assert all((model[key] == value).all() for key, value in a_model().items())
    record = commit(strategy)
    refused = [(entry["clinic"], entry["stage"], entry["kind"]) for entry in record["refused"]]
    assert refused == [("east", "update", "refused"), ("north", "update", "refused")]
    assert (record["train"], record["missing"]) == ({}, [])
    assert record["egress"]["east"]["update"] > 0


@pytest.mark.parametrize("spoilt", [np.nan, -np.inf, 1e30])
@pytest.mark.parametrize("refused", ["east", "north", "west"])
def test_a_refused_update_leaves_the_bits_of_a_round_without_it(tmp_path: Path, refused: str, spoilt: float) -> None:
    def answers(clinic: str, task: Task) -> Reply:
        generator = np.random.default_rng(NODES[clinic])
        reply = an_update(clinic, 0.0, 0.0)
        delta = {key: generator.normal(size=value.shape).astype(np.float32) for key, value in a_model().items()}
        if clinic == refused:
            delta["head.bias"][-1] = spoilt  # the last number of the last array
        return replace(reply, update=replace(reply.update, delta=delta))

    study = a_study(train=("east", "north", "west"))
    among = train_round(strategy_in(tmp_path / "among", study), grid_of(answers))
    without = train_round(strategy_in(tmp_path / "without", study), grid_of(answers), without=(refused,))
    for key, value in without.items():
        np.testing.assert_array_equal(among[key], value, err_msg=key)


def test_a_resumed_study_counts_its_rounds_on(tmp_path: Path) -> None:
    first = strategy_in(tmp_path, a_study())
    train_round(first, grid_of(moves))
    commit(first)
    again = strategy_in(tmp_path, a_study())
    seen: list[tuple[str, Task]] = []
    train_round(again, grid_of(moves, seen))
    assert {task.round_number for _, task in seen} == {2}
    assert commit(again)["round"] == 2


def test_in_a_head_only_round_an_update_is_head_rows_and_the_backbone_keeps_its_value(tmp_path: Path) -> None:
    study = a_study(training={"head_only_rounds": 2}, aggregation={"rule": "fedavg"})

    def head_only(clinic: str, task: Task) -> Reply:
        reply = moves(clinic, task)
        if not isinstance(reply, RoundReply):
            return reply
        head = {key: value for key, value in reply.update.delta.items() if key.startswith("head.")}
        return replace(reply, update=replace(reply.update, delta=head))

    model = train_round(strategy_in(tmp_path, study), grid_of(head_only))
    assert model["head.bias"] == pytest.approx(np.full(5, 7.0))
    assert model["backbone.weight"] == pytest.approx(np.ones(3))


def test_a_backbone_that_arrives_in_a_head_only_round_is_refused(tmp_path: Path) -> None:
    strategy = strategy_in(tmp_path, a_study(training={"head_only_rounds": 2}))
    train_round(strategy, grid_of(moves))
    reasons = [entry["reason"] for entry in commit(strategy)["refused"]]
    assert reasons == ["update has arrays that the model has not, expected none: 'backbone.weight'"] * 2


def test_an_update_in_another_precision_than_the_plans_is_refused(tmp_path: Path) -> None:
    def north_sends_fp32(clinic: str, task: Task) -> Reply:
        reply = moves(clinic, task)
        if clinic == "east" and isinstance(reply, RoundReply):
            return replace(reply, update=replace(reply.update, sent_as="int8"))
        return reply

    strategy = strategy_in(tmp_path, a_study(transport={"update_precision": "int8"}))
    train_round(strategy, grid_of(north_sends_fp32))
    record = commit(strategy)
    assert list(record["train"]) == ["east"]
    assert [(entry["clinic"], entry["reason"]) for entry in record["refused"]] == [
        ("north", "update came as fp32, expected int8")
    ]


def test_a_loss_beyond_all_charts_is_refused_with_its_update(tmp_path: Path) -> None:
    def boasts(clinic: str, task: Task) -> Reply:
        reply = moves(clinic, task)
        if clinic == "north" and isinstance(reply, RoundReply):
            return replace(reply, update=replace(reply.update, losses={"loss": 1.7e308}))
        return reply

    strategy = strategy_in(tmp_path, a_study())
    train_round(strategy, grid_of(boasts))
    record = commit(strategy)
    assert list(record["train"]) == ["east"]
    assert [(entry["clinic"], entry["stage"]) for entry in record["refused"]] == [("north", "update")]


@pytest.mark.parametrize(
    ("aggregation", "problem"),
    [
        ({"robust": "trimmed-mean", "trim_fraction": 0.34}, "a trimmed mean of 2 updates cuts off none"),
        ({"robust": "krum", "krum_malicious": 0}, "Krum against 0 malicious clinics needs 3 updates, 2 count"),
    ],
)
def test_an_order_statistic_of_too_few_updates_stops_the_study_before_the_round_is_kept(
    tmp_path: Path, aggregation: dict[str, Any], problem: str
) -> None:
    study = a_study(train=("east", "north", "west"), aggregation=aggregation)
    train_round(strategy_in(tmp_path / "all", study), grid_of(moves))
    strategy = strategy_in(tmp_path / "two", study)
    with pytest.raises(ConnectionFailure, match=problem) as caught:
        train_round(strategy, grid_of(moves), without=("west",))
    assert "wbc-server resume FOLDER" in caught.value.remedy
    assert strategy.book.rounds_done == 0


def test_the_tasks_of_a_round_share_one_copy_of_the_model(tmp_path: Path) -> None:
    study = a_study(evaluation={"prediction_prior": "training"})
    strategy = strategy_in(tmp_path, study)
    strategy.take_up(a_model())
    strategy.book.open_round(1)
    strategy.book.keep(a_model())
    messages = strategy.configure_train(1, ArrayRecord(), ConfigRecord(), grid_of(moves))
    models = [message.content.array_records["model"] for message in messages]
    assert len(models) == 3
    assert len({id(model["backbone.weight"].data) for model in models}) == 1
    assert len({id(model["head.bias"].data) for model in models}) == 2  # the held-out clinic's is for the case mix
    assert np.shares_memory(strategy.model["head.weight"], np.frombuffer(models[0]["head.weight"].data, np.uint8))


def test_rows_of_a_class_are_weighed_as_the_class_and_rows_of_none_stay(tmp_path: Path) -> None:
    """13 rows for five classes: those of a neutrophil (class 0) at 0.7 of east's change, a lymphocyte's (1) at 0.2."""
    study = a_study(model={"fine_classes": True})

    def answer(clinic: str, task: Task) -> Reply:
        moved = {"backbone.weight": 8.0, "head.weight": 10.0, "head.bias": 10.0}
        delta = {key: np.full_like(value, moved[key] * (clinic == "east")) for key, value in fine_model().items()}
        return RoundReply(Update(delta, np.array(COUNTS[clinic]), {"loss": 1.0}, num_cells=6, seconds=0.0))

    def fine_model() -> Arrays:
        return {**a_model(), "head.weight": np.ones((13, 2), np.float32), "head.bias": np.ones(13, np.float32)}

    strategy = strategy_in(tmp_path, study)
    strategy.take_up(fine_model())
    messages = list(strategy.configure_train(1, ArrayRecord(), ConfigRecord(), grid_of(answer)))
    strategy.aggregate_train(1, grid_of(answer).send_and_receive(messages))
    expected = {0: 8.0, 1: 3.0}
    assert strategy.model["head.bias"] == pytest.approx(
        np.array([expected.get(own, 1.0) for own in study.head_rows.class_of])
    )
    assert strategy.model["backbone.weight"] == pytest.approx(np.full(3, 1 + 8 * 0.375))
