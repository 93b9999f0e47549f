"""A task to a clinic's node until it is answered: what is needed to ask it again, and how it was asked so far."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from flwr.app import Message, RecordDict

from wbc_common.wire.packing import pack
from wbc_server.exchange.parcels import lay_parcel
from wbc_server.exchange.shelf import Shelf


@dataclass
class Question:
    """A task to a node.

    Attributes:
        message: whom it is for, and a parcel whose bytes lie on the shelf.
        clinic: whose node it is.
        asks: how often it was asked.
        rung: the ring for the last of these.
        message_ids: under which Flower has it, one a time it was asked; an answer to any of them counts.
        is_lost: to be asked again.
    """

    message: Message
    clinic: str
    asks: int = 0
    rung: int = 0
    message_ids: list[str] = field(default_factory=list)
    is_lost: bool = False

    @property
    def node(self) -> int:
        """Flower's number for whom it is for."""
        return self.message.metadata.dst_node_id

    def ask(self, remaining_seconds: float) -> Message:
        """A message that asks it, and expires with the time that is left for an answer."""
        ttl = min(self.message.metadata.ttl, remaining_seconds)
        self.message = _carrying(self.message.content, self.message, ttl)
        return self.message

    def was_asked(self, message_id: str | None, rung: int) -> None:
        """Note that Flower took it under a number, or took it not: the node is not registered (any more)."""
        self.asks, self.rung, self.is_lost = self.asks + 1, rung, not message_id
        self.message_ids += [message_id] if message_id else []


def questions_of(messages: Iterable[Message], clinics: Mapping[int, str], shelf: Shelf) -> list[Question]:
    """Messages with their records on the shelf; records that messages share are put there once."""
    all_messages = list(messages)  # keeps the records alive, so that an id stays theirs
    parcels: dict[int, RecordDict] = {}
    for message in all_messages:
        if id(message.content) not in parcels:
            parcels[id(message.content)] = lay_parcel(pack(message.content), shelf)
    nodes = [message.metadata.dst_node_id for message in all_messages]
    return [
        Question(_carrying(parcels[id(message.content)], message), clinics.get(node, f"of node {node}"))
        for node, message in zip(nodes, all_messages, strict=True)
    ]


def _carrying(records: RecordDict, message: Message, ttl: float | None = None) -> Message:
    """A message like this one with other records."""
    metadata = message.metadata
    ttl = metadata.ttl if ttl is None else ttl
    return Message(records, metadata.dst_node_id, metadata.message_type, group_id=metadata.group_id, ttl=ttl)
