"""Parcels of tickets: a contract for each private thing of Flower that they rest on, and what memory holds of them."""

import gc
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.message import array as flowers_array
from flwr.proto.message_pb2 import PullObjectRequest, PullObjectResponse
from flwr.supercore.run import Run
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.superlink.grid import HttpGrid

from links import RememberingLink
from wbc_common.errors import MessageError
from wbc_common.wire import encode_arrays
from wbc_common.wire.packing import make_parcel, open_parcel, pack
from wbc_server.exchange import parcels
from wbc_server.exchange.parcels import lay_parcel, on_shelf, places_of
from wbc_server.exchange.shelf import Reading, Shelf
from wbc_simulations.engine.engines import InProcessGrid

PIECE = 1 << 20
TWICE_THE_SAME = bytes(PIECE) * 2 + bytes(range(256)) * 4096 + b"end"  # three pieces and a bit, two of them equal


def flower() -> tuple[HttpGrid, RememberingLink]:
    """Flower's own Grid over a link that remembers."""
    InProcessGrid(lambda message, context: message, {})  # type: ignore[arg-type]  # gives messages a sender
    grid, link = HttpGrid(token="token"), RememberingLink()
    grid.set_run(Run.create_empty(1))
    grid._client = link  # type: ignore[assignment]
    return grid, link


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parcels, "_PIECE_BYTES", PIECE)
    monkeypatch.setattr(flowers_array, "FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE", PIECE)


def answered(grid: HttpGrid, link: RememberingLink, content: RecordDict) -> Message:
    """The answer that Flower hands over to a message that was sent, when a node answered with this content."""
    (name,) = grid.push_messages([Message(RecordDict(), 1, "train")])
    link.keep_reply(Message(content, reply_to=link.message(name)), name)
    (reply,) = grid.pull_messages([name])
    return reply


def test_contract_a_task_arrives_whole_each_time_that_it_is_sent(tmp_path: Path) -> None:
    grid, link = flower()
    with Shelf(tmp_path) as shelf, on_shelf(grid, shelf):
        parcel = lay_parcel([b"", TWICE_THE_SAME[:7], TWICE_THE_SAME[7:]], shelf)
        for node in (1, 2):
            (name,) = grid.push_messages([Message(parcel, node, "train")])
            assert open_parcel(link.message(name).content) == TWICE_THE_SAME
            link.objects.clear()


def test_contract_a_task_is_the_same_to_the_superlink_as_one_that_flower_cut(tmp_path: Path) -> None:
    grid, link = flower()
    grid.push_messages([Message(make_parcel(TWICE_THE_SAME), 1, "train")])
    flowers = {name for name, content in link.objects.items() if content.startswith(b"ArrayChunk")}
    with Shelf(tmp_path) as shelf, on_shelf(grid, shelf):
        link.objects.clear()
        grid.push_messages([Message(lay_parcel([TWICE_THE_SAME], shelf), 1, "train")])
    assert {name for name, content in link.objects.items() if content.startswith(b"ArrayChunk")} == flowers
    assert len(flowers) == 3


def test_contract_an_answer_lies_on_the_shelf_and_flower_holds_tickets(tmp_path: Path) -> None:
    grid, link = flower()
    with Shelf(tmp_path) as shelf, on_shelf(grid, shelf):
        reply = answered(grid, link, make_parcel(TWICE_THE_SAME))
        assert len(open_parcel(reply.content)) == 4 * 16
        assert Reading(shelf, places_of(reply.content)).read(10**9) == TWICE_THE_SAME


def test_what_else_a_message_holds_is_left_alone(tmp_path: Path) -> None:
    grid, link = flower()
    records = RecordDict({"parcel": ConfigRecord({"ArrayChunk": "ArrayChunk "})})
    with Shelf(tmp_path) as shelf, on_shelf(grid, shelf):
        reply = answered(grid, link, records)
        assert reply.content == records
        with pytest.raises(MessageError):
            places_of(reply.content)


def test_a_parcel_without_a_byte_is_refused(tmp_path: Path) -> None:
    grid, link = flower()
    with Shelf(tmp_path) as shelf, on_shelf(grid, shelf):
        reply = answered(grid, link, make_parcel(b""))
        with pytest.raises(MessageError, match="an empty parcel"):
            places_of(reply.content)


def test_a_clinic_cannot_name_a_place_of_anothers(tmp_path: Path) -> None:
    """What looks like a ticket when it comes is a piece like any other."""
    grid, link = flower()
    with Shelf(tmp_path) as shelf, on_shelf(grid, shelf):
        others = shelf.lay(b"another clinic's")
        forged = parcels._ticket(others)
        reply = answered(grid, link, make_parcel(forged))
        assert Reading(shelf, places_of(reply.content)).read(100) == forged


def test_flower_is_as_before_when_the_exchange_is_over(tmp_path: Path) -> None:
    grid, link = flower()
    with Shelf(tmp_path) as shelf, on_shelf(grid, shelf):
        pass
    assert open_parcel(answered(grid, link, make_parcel(TWICE_THE_SAME)).content) == TWICE_THE_SAME


def http_messages() -> list[object]:
    """Requests and answers that are in memory."""
    return [found for found in gc.get_objects() if type(found) in (httpx.Request, httpx.Response)]


def test_contract_an_answer_over_http_is_gone_with_its_piece(tmp_path: Path) -> None:
    """Without the collector of cycles, which runs when it likes."""
    grid, _ = flower()
    piece = parcels._deflated(memoryview(b"piece"))
    response = PullObjectResponse(object_found=True, object_available=True, object_content=piece)
    client = RuntimeHttpClient("http://link")
    client._client = httpx.Client(
        transport=httpx.MockTransport(lambda request: httpx.Response(200, content=response.SerializeToString()))
    )
    grid._client = client
    gc.collect()
    gc.disable()
    try:
        with Shelf(tmp_path) as shelf, on_shelf(grid, shelf):
            assert client.PullObject(PullObjectRequest(object_id="1")).object_found
        assert not http_messages()
        client.PullObject(PullObjectRequest(object_id="1"))
        assert http_messages()  # why it is done
    finally:
        gc.enable()


def test_few_pieces_are_in_memory_at_a_time(tmp_path: Path) -> None:
    grid, link = flower()
    records = RecordDict({"model": encode_arrays({"w": np.arange(64 * PIECE // 8)})})
    (name,) = grid.push_messages([Message(RecordDict(), 1, "train")])
    link.keep_reply(Message(make_parcel(b"".join(pack(records))), reply_to=link.message(name)), name)
    link.PushObject = lambda request: SimpleNamespace(stored=True)  # type: ignore[method-assign]  # keeps nothing
    with Shelf(tmp_path) as shelf, on_shelf(grid, shelf):
        tracemalloc.start()
        try:
            grid.push_messages([Message(lay_parcel(pack(records), shelf), 1, "train")])
            sending = tracemalloc.get_traced_memory()[1]
            tracemalloc.reset_peak()
            grid.pull_messages([name])
            taking = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert max(sending, taking) < 16 * PIECE, (sending, taking)
