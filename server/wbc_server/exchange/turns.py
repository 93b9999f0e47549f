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
from wbc_server.exchange.shelf import Laid, Shelf


@dataclass
class Answer:
    """To a question: packed records, or an error."""

    question: Message
    content: bytes | Error


class Turns:
    """Hands answers on in the order of their nodes."""

    def __init__(self, nodes: Iterable[int], shelf: Shelf) -> None:
        self._nodes = deque(nodes)
        self._shelf = shelf
        self._early: dict[int, tuple[Message, Laid | Error]] = {}

    def take(self, answers: list[Answer]) -> Iterator[Message]:
        """Replies whose turn has come with these answers, which are used up: none is held beside its reply."""
        while answers:
            self._put(answers.pop(0))
            while self._nodes and self._nodes[0] in self._early:
                yield self._reply(*self._early.pop(self._nodes.popleft()))

    def _put(self, answer: Answer) -> None:
        node, content = answer.question.metadata.dst_node_id, answer.content
        self._early[node] = (answer.question, content if isinstance(content, Error) else self._shelf.lay(content))

    def _reply(self, question: Message, content: Laid | Error) -> Message:
        """With its records taken out of the parcel; an error of the clinic's where these are no records."""
        if isinstance(content, Error):
            return Message(content, reply_to=question)
        try:
            return Message(unpack(self._shelf.take(content)), reply_to=question)
        except MessageError as error:
            return Message(Error(ERROR_CODE, error.problem), reply_to=question)
