"""Hand-made clinics for the strategy: what each has and answers, and rounds with them. No training."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message

from wbc_common.study import StudyConfig, parse_study
from wbc_common.wire import (
    Arrays,
    Evaluation,
    Reply,
    RoundReply,
    Task,
    Update,
    decode_task,
    encode_reply,
)
from wbc_server.exchange.participation import Roster
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
