"""Clinics' answers in the order in which they were asked, whatever the order in which they come.

Each lies on the shelf until it is read, so that nothing else holds its bytes when it is unpacked.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from flwr.app import Error, Message

from wbc_common.errors import MessageError
from wbc_common.wire import ERROR_CODE
from wbc_common.wire.packing import unpack
from wbc_server.exchange.shelf import Place, Reading, Shelf


@dataclass(frozen=True)
class Answer:
    """To a question: where its packed records lie, or an error."""

    question: Message
    content: list[Place] | Error


class Turns:
    """Hands answers on in the order of their nodes."""

    def __init__(self, nodes: Iterable[int], shelf: Shelf) -> None:
        self._nodes = deque(nodes)
        self._shelf = shelf
        self._early: dict[int, Answer] = {}

    def take(self, answers: Iterable[Answer]) -> Iterator[Message]:
        """Replies whose turn has come with these answers."""
        for answer in answers:
            self._early[answer.question.metadata.dst_node_id] = answer
            while self._nodes and self._nodes[0] in self._early:
                yield self._reply(self._early.pop(self._nodes.popleft()))

    def _reply(self, answer: Answer) -> Message:
        """With its records taken out of the parcel; an error of the clinic's where these are no records."""
        if isinstance(answer.content, Error):
            return Message(answer.content, reply_to=answer.question)
        try:
            return Message(unpack(Reading(self._shelf, answer.content)), reply_to=answer.question)
        except MessageError as error:
            return Message(Error(ERROR_CODE, error.problem), reply_to=answer.question)
