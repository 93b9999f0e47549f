"""Who takes part: clinics by name and role, the node each one is, and the cells each one declared."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from wbc_common.errors import ClinicAbsent, ConnectionFailure, UpdateRefused, WbcError
from wbc_common.study import StudyConfig
from wbc_common.wire import MESSAGE_TYPES, Description, Task, decode_description, encode_task, num_bytes
from wbc_server.exchange.attendance import AWAY_CODE, LATE_CODE

log = logging.getLogger(__name__)

MOST_CELLS = 1e8  # a split; weights come from declared cells, and no clinic has labelled so many
_SAID_LENGTH = 200  # of what a clinic says
_REASON_LENGTH = 500  # of our reasons, which may quote it


@dataclass(frozen=True)
class Roster:
    """The clinics of a study that answered the roll, in name order.

    Attributes:
        nodes: clinic → node id.
        class_counts: clinic → declared cells float64 [3, C] of train, val and test.
        train, held_out: names by role.
        described_bytes: clinic → size of its answer to the roll.
        absent: clinics of the plan that did not come; the study goes on without them until it is resumed.
        message_seconds: a task that is older is not worked on; None leaves it to Flower.
    """

    nodes: dict[str, int]
    class_counts: dict[str, NDArray[np.float64]]
    train: tuple[str, ...]
    held_out: tuple[str, ...]
    described_bytes: dict[str, int] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    message_seconds: float | None = None

    @property
    def is_between_hospitals(self) -> bool:
        """Whether answers come over a network, and not from clinics of this process or of Flower's simulation."""
        return self.message_seconds is not None

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


def instruct(task: Task, roster: Roster, clinics: Sequence[str], *, model: ArrayRecord | None = None) -> list[Message]:
    """One message a clinic, in name order. They share their records, which no receiver changes.

    Args:
        model: the task's model, where other tasks share it encoded.
    """
    records = encode_task(task, model)
    kind, number, ttl = MESSAGE_TYPES[task.kind], str(task.round_number), roster.message_seconds
    return [Message(records, roster.nodes[clinic], kind, group_id=number, ttl=ttl) for clinic in clinics]


def content_of(reply: Message) -> RecordDict:
    """The records of a reply.

    Raises:
        ClinicAbsent: there was no answer in time.
        UpdateRefused: the clinic reports an error instead.
    """
    if not reply.has_error():
        return reply.content
    reason = one_line(str(reply.error.reason))
    if reply.error.code in (LATE_CODE, AWAY_CODE):
        raise ClinicAbsent(reason, remedy="look into the clinic's own log and its connection")
    raise UpdateRefused(f"the clinic reports an error: {reason}", remedy="look into the clinic's own log")


def one_line(text: str, limit: int = _SAID_LENGTH) -> str:
    """What a clinic says, as it may stand in a log, a terminal and a report: printable, on one line, and cut."""
    shown = " ".join("".join(sign if sign.isprintable() else " " for sign in text[: 2 * limit]).split())
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"


def reason_of(error: WbcError) -> str:
    """Why a reply does not count, as it may stand there: the names of records in it are a clinic's choice."""
    return one_line(error.problem, _REASON_LENGTH)


def in_order(replies: Iterable[Message], clinics: tuple[str, ...], roster: Roster) -> Iterator[tuple[str, Message]]:
    """Replies with their clinics in the order of `clinics`, each as soon as its turn has come.

    Sums of floats depend on order; arrival does not repeat. A reply that comes early waits, so what is held is what
    is out of order. Replies of strangers and second replies of a clinic are dropped.
    """
    waiting: dict[str, Message] = {}
    places = {clinic: place for place, clinic in enumerate(clinics)}
    turn = 0
    for reply in replies:
        clinic = roster.clinic_of(reply.metadata.src_node_id)
        if clinic is not None and places.get(clinic, -1) >= turn:
            waiting.setdefault(clinic, reply)
        del reply
        while turn < len(clinics) and clinics[turn] in waiting:
            yield clinics[turn], waiting.pop(clinics[turn])
            turn += 1
    for clinic in clinics[turn:]:
        if clinic in waiting:
            yield clinic, waiting.pop(clinic)


def call_roll(grid: Grid, study: StudyConfig, timeout_seconds: float, nodes: Mapping[int, str] | None = None) -> Roster:
    """Ask every node who it is.

    Args:
        nodes: node → clinic by the coordinator's register, of the nodes to ask; a node that calls itself otherwise is
            left out. None asks all nodes and believes them, as in a simulation.

    Raises:
        ConnectionFailure: fewer clinics than the plan's quorum gave a usable description, or two are the same clinic.
    """
    records = encode_task(Task("describe", study.hash))
    asked = grid.get_node_ids() if nodes is None else nodes
    messages = [Message(records, node, MESSAGE_TYPES["describe"], ttl=timeout_seconds) for node in asked]
    answers: dict[str, tuple[int, Description]] = {}
    sizes: dict[str, int] = {}
    for reply in grid.send_and_receive(messages, timeout=timeout_seconds):
        description = _description(reply, study)
        if description is None or not _is_itself(reply, description, nodes):
            continue
        if description.clinic in answers:
            raise ConnectionFailure(
                f"two nodes say that they are clinic '{description.clinic}'", remedy="stop one of the two"
            )
        answers[description.clinic] = (reply.metadata.src_node_id, description)
        sizes[description.clinic] = num_bytes(reply.content)
    absent = _absent(study, set(answers), may_miss=nodes is not None)
    return Roster(
        nodes={clinic: answers[clinic][0] for clinic in sorted(answers)},
        class_counts={clinic: answers[clinic][1].class_counts for clinic in sorted(answers)},
        train=tuple(sorted(set(study.clinics.train) & answers.keys())),
        held_out=tuple(sorted(set(study.clinics.held_out) & answers.keys())),
        described_bytes=sizes,
        absent=absent,
        message_seconds=None if nodes is None else timeout_seconds,
    )


def _description(reply: Message, study: StudyConfig) -> Description | None:
    """A usable description, or None with a word in the log."""
    try:
        description = decode_description(content_of(reply))
        study.role(description.clinic)
    except WbcError as error:
        log.warning("node %d left out: %s", reply.metadata.src_node_id, reason_of(error))
        return None
    fault = _fault(description.class_counts, len(study.classes))
    if fault is not None:
        log.warning("clinic %s left out: its class counts %s", description.clinic, fault)
        return None
    return description


def _fault(counts: NDArray[np.float64], num_classes: int) -> str | None:
    """What is wrong with declared class counts, or None."""
    if counts.shape != (3, num_classes) or not np.isfinite(counts).all() or (counts < 0).any():
        return f"are not 3 × {num_classes} counts"
    with np.errstate(over="ignore"):  # a sum that is infinite is too large
        largest = float(counts.sum(axis=1).max())
    return None if largest <= MOST_CELLS else f"hold {largest:.3g} cells in a split, expected at most {MOST_CELLS:g}"


def _is_itself(reply: Message, description: Description, nodes: Mapping[int, str] | None) -> bool:
    """Whether a node has the key of the clinic that it says it is."""
    enrolled = None if nodes is None else nodes[reply.metadata.src_node_id]
    if enrolled in (None, description.clinic):
        return True
    log.warning("clinic %s left out: its clinic file says that it is %s", enrolled, description.clinic)
    return False


def _absent(study: StudyConfig, answered: set[str], *, may_miss: bool) -> tuple[str, ...]:
    """Clinics of the plan that did not answer; too many of them are an error, and any in a simulation."""
    missing = tuple(sorted({*study.clinics.train, *study.clinics.held_out} - answered))
    training = len(answered & set(study.clinics.train))
    needed = study.participation.clinics_needed(len(study.clinics.train))
    if missing and (not may_miss or training < needed):
        raise ConnectionFailure(
            f"no usable answer from {', '.join(missing)}; {training} training clinics answered, {needed} are needed",
            remedy="look into these clinics' own logs, start them again, or take them out of the study",
        )
    return missing
