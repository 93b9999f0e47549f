"""Waiting for clinics between hospitals: who comes, who is late, who is away, and what is asked of them again.

Flower delivers a message once. When a clinic's node dies with a task in its hands, the server is told that the node is
unavailable, and no one repeats the task. Here it is asked again once its node is back, until the round's time is over:
the answer follows from the message alone, so a clinic that was restarted gives the same update, to the bit. Replies are
taken as they arrive, one at a time, and handed on in the order in which clinics were asked. Tasks that may have to be
asked again, and answers until their turn, lie on disk (`wbc_server.exchange.shelf`), so that memory holds one update
whatever the number of clinics.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from flwr.app import Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from wbc_common.errors import ConnectionFailure, MessageError
from wbc_common.wire import ERROR_CODE
from wbc_common.wire.packing import make_parcel, open_parcel, pack
from wbc_server.exchange.deployment import Deployment
from wbc_server.exchange.shelf import Laid, Shelf
from wbc_server.exchange.turns import Answer, Turns

log = logging.getLogger(__name__)

LATE_CODE, AWAY_CODE = ERROR_CODE + 1, ERROR_CODE + 2
# Flower's codes for a task that got lost on the way; it has others for a task that failed.
_LOST_CODES = frozenset(
    {
        ErrorCode.MESSAGE_UNAVAILABLE,
        ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
        ErrorCode.NODE_UNAVAILABLE,
        ErrorCode.CLIENT_APP_CRASHED,
    }
)
_MOST_ASKS = 20  # of one clinic in one exchange
_JOIN_POLL_SECONDS = 0.5
_BELL_SECONDS = 0.02
_LOOK_SECONDS = 5.0  # how often Flower is asked although no bell has rung
_QUIET_NS = 80_000_000  # a reply comes in several pieces


@dataclass(frozen=True)
class _Question:
    """A task: whom it is for, on a message without records, and where its parcel lies."""

    envelope: Message
    parcel: Laid

    @property
    def node(self) -> int:
        return self.envelope.metadata.dst_node_id


@dataclass
class _Asked:
    """Questions of one exchange: in the hands of Flower, and those to ask again once their node is back."""

    shelf: Shelf
    open: dict[str, _Question] = field(default_factory=dict)
    lost: dict[int, _Question] = field(default_factory=dict)
    asks: Counter[int] = field(default_factory=Counter)


class AttendingGrid(Grid):
    """Flower's Grid with replies as they arrive, lost tasks asked again, and an end to waiting.

    Args:
        grid: Flower's own, over the network.
        deployment: the bells that are rung when tasks wait and when replies have come, and the clinics' names.
    """

    def __init__(self, grid: Grid, deployment: Deployment) -> None:
        self._grid = grid
        self._deployment = deployment

    def set_run(self, run: Run) -> None:
        """Pass on."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """Flower's run."""
        return self._grid.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message to a node."""
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Nodes that are there now."""
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Pass on."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pass on."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Replies in the order of the messages, one a node, each as soon as its turn has come.

        A node that did not answer by the end of the time has an error in its name.
        """
        end = time.monotonic() + (timeout if timeout is not None else float("inf"))
        with Shelf(self._deployment.folder) as shelf:
            asked, questions = _Asked(shelf), _questions(messages, shelf)
            del messages  # the shelf holds the same
            turns = Turns([question.node for question in questions], shelf)
            self._push(asked, questions)
            while (asked.open or asked.lost) and time.monotonic() < end:
                heard = self._deployment.replies.last()
                for message_id in list(asked.open):
                    yield from turns.take(self._pull(asked, message_id))
                if asked.lost:
                    yield from turns.take(self._give_up(asked))
                    self._ask_again(asked, remaining_seconds=end - time.monotonic())
                if asked.open or asked.lost:
                    self._listen(heard, seconds=min(_LOOK_SECONDS, end - time.monotonic()))
            yield from turns.take(_absences(asked))

    def _name(self, node: int) -> str:
        return self._deployment.clinics().get(node, f"of node {node}")

    def _listen(self, heard: int, seconds: float) -> None:
        """Wait until the bell has rung since `heard` and is quiet again, or for so many seconds."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(_BELL_SECONDS)
            rung = self._deployment.replies.last()
            if rung != heard and time.time_ns() - rung > _QUIET_NS:
                return

    def _push(self, asked: _Asked, questions: list[_Question]) -> None:
        parcels = {laid: make_parcel(asked.shelf.take(laid)) for laid in {question.parcel for question in questions}}
        messages = [_carrying(parcels[question.parcel], question.envelope) for question in questions]
        for message_id, question in zip(self._grid.push_messages(messages), questions, strict=True):
            asked.asks[question.node] += 1
            if message_id:
                asked.open[message_id] = question
            else:  # the node is not registered (any more)
                asked.lost[question.node] = question
        self._deployment.tasks.ring()

    def _pull(self, asked: _Asked, message_id: str) -> list[Answer]:
        """The answer to a message, if it has come; a lost task is put aside, to be asked again."""
        answers = []
        for reply in self._grid.pull_messages([message_id]):
            question = asked.open.pop(reply.metadata.reply_to_message_id, None)
            if question is None:
                continue
            node = question.node
            if reply.has_error() and reply.error.code in _LOST_CODES and asked.asks[node] < _MOST_ASKS:
                log.warning("clinic %s lost its task and is asked again once it is back", self._name(node))
                asked.lost[node] = question
            else:
                answers.append(_answer(reply, question.envelope))
        return answers

    def _give_up(self, asked: _Asked) -> list[Answer]:
        """Errors in the name of clinics whose key was revoked: nobody waits for them."""
        enrolled = self._deployment.clinics()
        gone = [asked.lost.pop(node) for node in list(asked.lost) if node not in enrolled]
        return [Answer(question.envelope, Error(AWAY_CODE, "its key was revoked")) for question in gone]

    def _ask_again(self, asked: _Asked, remaining_seconds: float) -> None:
        there = set(self._grid.get_node_ids())
        back = [asked.lost.pop(node) for node in list(asked.lost) if node in there]
        if back:
            for question in back:
                log.info("clinic %s is back and is asked again", self._name(question.node))
            self._push(asked, [_again(question, remaining_seconds) for question in back])


def await_clinics(
    grid: Grid, clinics: Callable[[], Mapping[int, str]], wanted: Iterable[str], join_seconds: float
) -> dict[int, str]:
    """Nodes of the wanted clinics that are there: all of them, or those that came in time.

    Args:
        clinics: node → clinic by the register as it is now: a key may be replaced during the wait.

    Raises:
        ConnectionFailure: none came.
    """
    names, end = set(wanted), time.monotonic() + join_seconds
    while True:
        nodes = {node: clinic for node, clinic in clinics().items() if clinic in names}
        there = set(grid.get_node_ids()) & nodes.keys()
        if len(there) == len(names) or time.monotonic() > end:
            break
        time.sleep(_JOIN_POLL_SECONDS)
    if not there:
        raise ConnectionFailure(
            f"no clinic came within {join_seconds / 60:g} minutes",
            remedy="have the clinics run wbc-client check, then resume; participation.join_minutes is the time to wait",
        )
    return {node: nodes[node] for node in there}


def _questions(messages: Iterable[Message], shelf: Shelf) -> list[_Question]:
    """Messages with their records on the shelf; records that messages share are packed once."""
    all_messages = list(messages)  # keeps the records alive, so that an id stays theirs
    parcels: dict[int, Laid] = {}
    for message in all_messages:
        if id(message.content) not in parcels:
            parcels[id(message.content)] = shelf.lay(pack(message.content))
    nothing = RecordDict()
    return [_Question(_carrying(nothing, message), parcels[id(message.content)]) for message in all_messages]


def _answer(reply: Message, question: Message) -> Answer:
    if reply.has_error():  # Flower's own errors name the coordinator as their source
        return Answer(question, Error(reply.error.code, reply.error.reason))
    try:
        return Answer(question, open_parcel(reply.content))
    except MessageError as error:
        return Answer(question, Error(ERROR_CODE, error.problem))


def _carrying(records: RecordDict, message: Message, ttl: float | None = None) -> Message:
    """A message like this one with other records."""
    metadata = message.metadata
    ttl = metadata.ttl if ttl is None else ttl
    return Message(records, metadata.dst_node_id, metadata.message_type, group_id=metadata.group_id, ttl=ttl)


def _again(question: _Question, remaining_seconds: float) -> _Question:
    ttl = min(question.envelope.metadata.ttl, remaining_seconds)
    return replace(question, envelope=_carrying(question.envelope.content, question.envelope, ttl))


def _absences(asked: _Asked) -> list[Answer]:
    late = Error(LATE_CODE, "no answer within the time of the round")
    away = Error(AWAY_CODE, "not connected until the end of the round")
    return [
        *(Answer(question.envelope, late) for question in asked.open.values()),
        *(Answer(question.envelope, away) for question in asked.lost.values()),
    ]
