"""Who takes part: clinics by name and role, the node each one is, and the cells each one declared."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from wbc_common.errors import ConnectionFailure, UpdateRefused, WbcError
from wbc_common.study import StudyConfig
from wbc_common.wire import MESSAGE_TYPES, Description, Task, decode_description, encode_task, num_bytes

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Roster:
    """The clinics of a study that answered the roll, in name order.

    Attributes:
        nodes: clinic → node id.
        class_counts: clinic → declared cells float64 [3, C] of train, val and test.
        train, held_out: names by role.
        described_bytes: clinic → size of its answer to the roll.
    """

    nodes: dict[str, int]
    class_counts: dict[str, NDArray[np.float64]]
    train: tuple[str, ...]
    held_out: tuple[str, ...]
    described_bytes: dict[str, int] = field(default_factory=dict)

    def clinic_of(self, node_id: int) -> str | None:
        """The clinic behind a node, or None for a stranger."""
        return self._clinics.get(node_id)

    @cached_property
    def _clinics(self) -> dict[int, str]:
        return {node: clinic for clinic, node in self.nodes.items()}

    def training_counts(self) -> NDArray[np.float64]:
        """Declared training cells [K, C] in the order of `train`."""
        return np.stack([self.class_counts[clinic][0] for clinic in self.train])

    def declared_cells(self, clinic: str, split: str) -> int:
        """Declared cells of one split, or of all; shares of coarse labels add up to whole cells."""
        counts = self.class_counts[clinic]
        chosen = counts if split == "all" else counts[("train", "val", "test").index(split)]
        return round(float(chosen.sum()))


def instruct(task: Task, roster: Roster, clinics: Sequence[str]) -> list[Message]:
    """One message a clinic, in name order. They share their records, which no receiver changes."""
    records = encode_task(task)
    kind = MESSAGE_TYPES[task.kind]
    return [Message(records, roster.nodes[clinic], kind, group_id=str(task.round_number)) for clinic in clinics]


def content_of(reply: Message) -> RecordDict:
    """The records of a reply.

    Raises:
        UpdateRefused: the clinic reports an error instead.
    """
    if reply.has_error():
        raise UpdateRefused(
            f"the clinic reports an error: {reply.error.reason}", remedy="look into the clinic's own log"
        )
    return reply.content


def call_roll(grid: Grid, study: StudyConfig, timeout_seconds: float) -> Roster:
    """Ask every node who it is.

    Raises:
        ConnectionFailure: a clinic that the study names did not answer with a usable description, or two did.
    """
    records = encode_task(Task("describe", study.hash))
    messages = [Message(records, node, MESSAGE_TYPES["describe"]) for node in grid.get_node_ids()]
    answers: dict[str, tuple[int, Description]] = {}
    sizes: dict[str, int] = {}
    for reply in grid.send_and_receive(messages, timeout=timeout_seconds):
        description = _description(reply, study)
        if description is None:
            continue
        if description.clinic in answers:
            raise ConnectionFailure(
                f"two nodes say that they are clinic '{description.clinic}'", remedy="stop one of the two"
            )
        answers[description.clinic] = (reply.metadata.src_node_id, description)
        sizes[description.clinic] = num_bytes(reply.content)
    _check_complete(study, set(answers))
    return Roster(
        nodes={clinic: answers[clinic][0] for clinic in sorted(answers)},
        class_counts={clinic: answers[clinic][1].class_counts for clinic in sorted(answers)},
        train=tuple(sorted(study.clinics.train)),
        held_out=tuple(sorted(study.clinics.held_out)),
        described_bytes=sizes,
    )


def _description(reply: Message, study: StudyConfig) -> Description | None:
    """A usable description, or None with a word in the log."""
    try:
        description = decode_description(content_of(reply))
        study.role(description.clinic)
    except WbcError as error:
        log.warning("node %d left out: %s", reply.metadata.src_node_id, error.problem)
        return None
    counts = description.class_counts
    if counts.shape != (3, len(study.classes)) or not np.isfinite(counts).all() or (counts < 0).any():
        log.warning(
            "clinic %s left out: its class counts are not 3 × %d counts", description.clinic, len(study.classes)
        )
        return None
    return description


def _check_complete(study: StudyConfig, answered: set[str]) -> None:
    missing = sorted({*study.clinics.train, *study.clinics.held_out} - answered)
    if missing:
        raise ConnectionFailure(
            f"no usable answer from {', '.join(missing)}",
            remedy="look into these clinics' own logs, start them again, or take them out of the study",
        )
