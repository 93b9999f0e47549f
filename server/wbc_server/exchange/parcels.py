"""Parcels of which Flower sees tickets: their bytes lie on the shelf, and pass through memory piece by piece.

Flower deflates all of a message before it sends the first piece, and copies all of an answer three times when the last
one has come. So the bytes of a piece are exchanged for a ticket, the place where they lie, at the one point where
pieces pass between Flower and the SuperLink one at a time: `PushObject` and `PullObject` of its Runtime client. All
else is Flower's: which objects a message has, requests, retries, and putting an answer's tickets in order.

What is used of Flower here is private; `tests/server/test_parcels.py` fails when an upgrade changes it. A piece is an
`ArrayChunk` named by the SHA-256 of its deflated form, which the SuperLink checks; the pieces of an `Array` are kept
under `_chunks`; `HttpGrid` has its Runtime client under `_runtime_client`, and that has `_interceptors`.
"""

import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx
from flwr.app import RecordDict
from flwr.app.message.arraychunk import ArrayChunk
from flwr.proto.message_pb2 import PullObjectRequest, PullObjectResponse, PushObjectRequest, PushObjectResponse
from flwr.supercore.constant import HEAD_VALUE_DIVIDER
from flwr.supercore.inflatable.inflatable_object import get_object_id
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext

from wbc_common.errors import MessageError
from wbc_common.wire.packing import make_parcel, open_parcel, parcel_array
from wbc_server.exchange.shelf import Place, Shelf

if TYPE_CHECKING:
    from flwr.superlink.grid import HttpGrid

_PIECE_BYTES = 5 * 2**20  # as Flower cuts arrays
_TICKET = struct.Struct(">QQ")
_CHUNK_HEAD = f"{ArrayChunk.__qualname__}{HEAD_VALUE_DIVIDER}".encode()


class _Ticket(ArrayChunk):
    """A ticket that has the name of the piece that it stands for."""

    __qualname__ = ArrayChunk.__qualname__  # Flower writes it into the deflated form

    def __init__(self, place: Place, object_id: str) -> None:
        super().__init__(memoryview(_ticket(place)))
        self._name = object_id

    @property
    def object_id(self) -> str:
        """The name of the piece."""
        return self._name


def lay_parcel(parts: Iterable[bytes], shelf: Shelf) -> RecordDict:
    """Put packed records away; a parcel that Flower can send any number of times within `on_shelf`."""
    tickets = []
    for piece in _cut(parts):
        content = memoryview(piece)
        tickets.append(_Ticket(shelf.lay(content), get_object_id(_deflated(content))))
    parcel = make_parcel(b"".join(ticket.data for ticket in tickets))
    parcel_array(parcel).__dict__["_chunks"] = [(ticket.object_id, ticket) for ticket in tickets]
    return parcel


def places_of(records: RecordDict) -> list[Place]:
    """Where the packed records lie that came as a parcel within `on_shelf`.

    Raises:
        MessageError: something else came.
    """
    tickets = open_parcel(records)
    if not tickets:
        raise MessageError("an empty parcel", remedy="run the same version of wbc-fl at coordinator and clinics")
    return [Place(*values) for values in _TICKET.iter_unpack(tickets)]


@contextmanager
def on_shelf(grid: "HttpGrid", shelf: Shelf) -> Iterator[None]:
    """Let Flower have tickets in place of pieces, both ways."""
    client = grid._runtime_client
    push, pull, interceptors = client.PushObject, client.PullObject, client._interceptors

    def push_piece(request: PushObjectRequest) -> PushObjectResponse:
        ticket = _content(request.object_content)
        if ticket is not None:
            request.object_content = _deflated(memoryview(shelf.take(Place(*_TICKET.unpack(ticket)))))
        return push(request)

    def pull_piece(request: PullObjectRequest) -> PullObjectResponse:
        response = pull(request)
        piece = _content(response.object_content)
        if piece is not None:
            response.object_content = _deflated(memoryview(_ticket(shelf.lay(piece))))
        return response

    client.PushObject, client.PullObject = push_piece, pull_piece  # type: ignore[method-assign]
    client._interceptors = (*interceptors, _LettingGo())
    try:
        yield
    finally:
        client.PushObject, client.PullObject = push, pull  # type: ignore[method-assign]
        client._interceptors = interceptors


class _LettingGo:
    """Lets go of what HTTP answers were read from.

    It knows its answer, which knows its request: the pieces of both would stay until Python next looks for such cycles.
    """

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Pass on; the answer is read, and holds its content alone."""
        response = call_next(context)
        response.read()
        response.stream = httpx.ByteStream(b"")
        return response


def _ticket(place: Place) -> bytes:
    return _TICKET.pack(place.start, place.length)


def _deflated(content: memoryview) -> bytes:
    return ArrayChunk(content).deflate()


def _content(deflated: bytes) -> memoryview | None:
    """What a deflated piece holds; None for any other object."""
    return ArrayChunk.inflate(deflated).data if deflated.startswith(_CHUNK_HEAD) else None


def _cut(parts: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of equal size, but the last."""
    piece = bytearray()
    for part in parts:
        rest = memoryview(part)
        while rest:
            room = _PIECE_BYTES - len(piece)
            piece += rest[:room]
            rest = rest[room:]
            if len(piece) == _PIECE_BYTES:
                yield bytes(piece)
                piece.clear()
    if piece:
        yield bytes(piece)
