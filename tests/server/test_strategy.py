"""The strategy against hand-made replies: what is asked, what counts, and what the model becomes. No training."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict

from wbc_common.errors import ConnectionFailure
from wbc_common.study import StudyConfig, parse_study
from wbc_common.wire import (
    Arrays,
    ClassSums,
    Evaluation,
    Reply,
    RoundReply,
    Task,
    Update,
    decode_task,
    encode_reply,
)
from wbc_server.exchange.participation import Roster, in_order
from wbc_server.record import journal
from wbc_server.record.round_book import RoundBook
from wbc_server.run_folder import RunFolder
from wbc_server.strategy import WbcStrategy
from wbc_simulations.engine.engines import InProcessGrid

# Cells of two of the five classes. North has both, the others class 0 alone. West is held out unless said; south is
# only there where it is named.
COUNTS = {clinic: [6.0, 0, 0, 0, 0] for clinic in ("east", "south", "west")} | {"north": [2.0, 2, 0, 0, 0]}
NODES = {"east": 1, "north": 2, "west": 3, "south": 4}
Answer = Callable[[str, Task], Reply]


def a_study(*, train: tuple[str, ...] = ("east", "north"), **tables: Any) -> StudyConfig:
    clinics = {"train": train, "held_out": sorted({"west"} - set(train))}
    aggregation = {"rule": "class-count-aware", "alpha": 1.0, "head_smoothing": 0.5}
    model = {"fine_classes": False}
    values = {"name": "hand", "rounds": 2, "clinics": clinics, "model": model, "aggregation": aggregation, **tables}
    usual = {"loss": {"alignment_weight": 0.0}, "evaluation": {"selection": "best-validation"}}
    return parse_study({**usual, **values}, "test")


def strategy_in(folder: Path, study: StudyConfig) -> WbcStrategy:
    nodes = {clinic: NODES[clinic] for clinic in (*study.clinics.train, *study.clinics.held_out)}
    counts = {clinic: np.array([COUNTS[clinic], [1.0] * 5, [1.0] * 5]) for clinic in nodes}
    roster = Roster(nodes, counts, tuple(sorted(study.clinics.train)), study.clinics.held_out)
    return WbcStrategy(study, roster, RoundBook(RunFolder(folder), study, roster), 1.0)


def a_model(value: float = 1.0) -> Arrays:
    shapes = {"backbone.weight": (3,), "head.weight": (5, 2), "head.bias": (5,)}
    return {key: np.full(shape, value, dtype=np.float32) for key, shape in shapes.items()}


def an_update(clinic: str, backbone: float, head: float) -> RoundReply:
    delta = {key: np.full_like(value, head if key.startswith("head") else backbone) for key, value in a_model().items()}
    return RoundReply(Update(delta, np.array(COUNTS[clinic]), {"loss": 1.0}, num_cells=6, seconds=0.0))


def counts(cells: int, place: int = 0) -> Evaluation:
    confusion = np.zeros((5, 5), dtype=np.int64)
    confusion[0, place] = cells
    return Evaluation(confusion, np.zeros((0, 5, 5), dtype=np.int64), np.zeros(2, dtype=np.int64))


def moves(clinic: str, task: Task) -> Reply:
    """East moves the backbone by 8 and the head by 10; the others stay. Each measures the model that it receives."""
    if task.kind == "evaluate":
        return counts({"val": 5, "all": 16}[task.split])
    reply = an_update("east", 8.0, 10.0) if clinic == "east" else an_update(clinic, 0.0, 0.0)
    return replace(reply, evaluation=counts(5) if task.round_number > 1 else None)


def grid_of(answer: Answer, seen: list[tuple[str, Task]] | None = None) -> InProcessGrid:
    """Nodes that answer by `answer`; what they are asked is added to `seen`."""
    names = {node: clinic for clinic, node in NODES.items()}

    def client(message: Message, context: Context) -> Message:
        task = decode_task(message.content)
        if seen is not None:
            seen.append((names[context.node_id], task))
        return Message(encode_reply(answer(names[context.node_id], task)), reply_to=message)

    return InProcessGrid(client, {node: {} for node in NODES.values()})  # type: ignore[arg-type]


def train_round(strategy: WbcStrategy, grid: InProcessGrid, without: tuple[str, ...] = ()) -> Arrays:
    """One round's training on a model of ones, with no answer from the clinics in `without`."""
    strategy.take_up(a_model())
    messages = strategy.configure_train(1, ArrayRecord(), ConfigRecord(), grid)
    lost = {NODES[clinic] for clinic in without}
    heard = [message for message in messages if message.metadata.dst_node_id not in lost]
    strategy.aggregate_train(1, grid.send_and_receive(heard))
    return strategy.model


def commit(strategy: WbcStrategy, answer: Answer = moves) -> dict[str, Any]:
    """Close after one round; its line in the journal."""
    strategy.close(grid_of(answer))
    return journal.read(strategy.book.folder.journal)[-1]


def run(strategy: WbcStrategy, grid: InProcessGrid, rounds: int) -> list[dict[str, Any]]:
    """Rounds in Flower's own loop, closed; the journal."""
    strategy.take_up(a_model())
    strategy.start(grid, ArrayRecord(), num_rounds=rounds)
    strategy.close(grid)
    return journal.read(strategy.book.folder.journal)


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


def test_a_resumed_study_counts_its_rounds_on(tmp_path: Path) -> None:
    first = strategy_in(tmp_path, a_study())
    train_round(first, grid_of(moves))
    commit(first)
    again = strategy_in(tmp_path, a_study())
    seen: list[tuple[str, Task]] = []
    train_round(again, grid_of(moves, seen))
    assert {task.round_number for _, task in seen} == {2}
    assert commit(again)["round"] == 2


# in_order

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
