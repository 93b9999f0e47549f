"""Waiting for clinics between hospitals: who comes, who is late, who is away, and what is asked of them again.

Flower delivers a message once. When a clinic's node dies with a task in its hands, no one repeats the task, and the
server is told only if it asks while the node is away: of a node that is back before that, Flower says nothing for ever.
So a second sign counts as well. A node takes one task at a time and asks for the next when it has sent its answer; one
that asks although nothing waits for it (`Deployment.idle`) has answered what it was given, or lost it, whatever died on
the way. A lost task is asked again once its node is there, until the round's time is over: the answer follows from the
message alone, so it is the same, to the bit. Whichever answer comes first is taken, and no second one.

Answers are taken one at a time, when they are whole, and handed on in the order in which clinics were asked. Tasks that
may have to be asked again, and answers until their turn, lie on disk and pass through memory piece by piece
(`wbc_server.exchange.parcels`), so that it holds one update whatever the number of clinics.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from flwr.app import Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from wbc_common.errors import ConnectionFailure, MessageError
from wbc_common.wire import ERROR_CODE
from wbc_server.exchange.deployment import Deployment
from wbc_server.exchange.parcels import on_shelf, places_of
from wbc_server.exchange.question import Question, questions_of
from wbc_server.exchange.shelf import Shelf
from wbc_server.exchange.turns import Answer, Turns

if TYPE_CHECKING:  # Flower's own, whose import takes as long as all of Flower else
    from flwr.superlink.grid import HttpGrid

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
_LOOK_SECONDS = 5.0  # how often it is asked who is there


class AttendingGrid(Grid):
    """Flower's Grid with replies as they arrive, lost tasks asked again, and an end to waiting.

    Args:
        grid: Flower's own, over the network.
        deployment: the bell that is rung when tasks wait, who is idle, and the clinics' names.
    """

    def __init__(self, grid: "HttpGrid", deployment: Deployment) -> None:
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
        with Shelf(self._deployment.folder) as shelf, on_shelf(self._grid, shelf):
            asked = questions_of(messages, self._deployment.clinics(), shelf)
            questions = {question.node: question for question in asked}
            del messages  # the shelf holds the same
            turns = Turns(questions, shelf)
            self._push(asked, end)
            while questions and time.monotonic() < end:
                there = set(self._grid.get_node_ids())
                for question in list(questions.values()):
                    answers = self._look_after(question, is_there=question.node in there)
                    if answers:
                        del questions[question.node]
                    yield from turns.take(answers)
                back = [question for question in questions.values() if question.is_lost and question.node in there]
                self._ask_again(back, end)
                self._listen(questions.values(), seconds=min(_LOOK_SECONDS, end - time.monotonic()))
            yield from turns.take([_absence(question) for question in questions.values()])

    def _push(self, questions: Collection[Question], end: float) -> None:
        remaining_seconds = end - time.monotonic()
        message_ids = list(self._grid.push_messages([question.ask(remaining_seconds) for question in questions]))
        rung = self._deployment.tasks.ring()  # when Flower has them all
        for message_id, question in zip(message_ids, questions, strict=True):
            question.was_asked(message_id, rung)

    def _is_idle(self, question: Question) -> bool:
        """Whether the clinic's node asked for a task, and there was none for it, since this one was there for it."""
        return self._deployment.idle(question.clinic).last() >= question.rung

    def _look_after(self, question: Question, *, is_there: bool) -> list[Answer]:
        """The answer of a node that is done or gone; without one its task is lost, and asked again or given up.

        A node that is at work is left alone, also while it sends its answer: in the middle Flower would wait for it.
        """
        is_idle = self._is_idle(question)  # seen before Flower is asked: what such a node has sent is there
        if not question.is_lost and (is_idle or not is_there):
            answers = self._pull(question)
            if answers:
                return answers
            question.is_lost = is_idle or not question.message_ids
            if question.is_lost:
                log.warning("clinic %s lost its task and is asked again once it is back", question.clinic)
        return self._give_up(question) if question.is_lost else []

    def _pull(self, question: Question) -> list[Answer]:
        """The answer to any of the times that a question was asked; those that Flower says are lost are forgotten."""
        for message_id in list(question.message_ids):
            for reply in self._grid.pull_messages([message_id]):
                if reply.metadata.reply_to_message_id != message_id:
                    continue  # a node may send what nobody asked for, which Flower hands over with any pull
                if not reply.has_error() or reply.error.code not in _LOST_CODES:
                    return [_answer(reply, question.message)]
                question.message_ids.remove(message_id)
        return []

    def _give_up(self, question: Question) -> list[Answer]:
        """An error in the name of a clinic whose key was revoked, or which loses its task again and again."""
        if question.node not in self._deployment.clinics():
            return [Answer(question.message, Error(AWAY_CODE, "its key was revoked"))]
        if question.asks >= _MOST_ASKS:
            return [Answer(question.message, Error(AWAY_CODE, f"it lost its task {question.asks} times"))]
        return []

    def _ask_again(self, back: list[Question], end: float) -> None:
        for question in back:
            log.info("clinic %s is back and is asked again", question.clinic)
        if back:
            self._push(back, end)

    def _listen(self, questions: Collection[Question], seconds: float) -> None:
        """Wait until a node that is awaited is idle, or for so many seconds; not at all when all have answered."""
        end = time.monotonic() + (seconds if questions else 0)
        awaited = [question for question in questions if not question.is_lost]
        while time.monotonic() < end and not any(map(self._is_idle, awaited)):
            time.sleep(_BELL_SECONDS)


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


def _answer(reply: Message, question: Message) -> Answer:
    if reply.has_error():  # Flower's own errors name the coordinator as their source
        return Answer(question, Error(reply.error.code, reply.error.reason))
    try:
        return Answer(question, places_of(reply.content))
    except MessageError as error:
        return Answer(question, Error(ERROR_CODE, error.problem))


def _absence(question: Question) -> Answer:
    late = Error(LATE_CODE, "no answer within the time of the round")
    away = Error(AWAY_CODE, "not connected until the end of the round")
    return Answer(question.message, away if question.is_lost else late)
