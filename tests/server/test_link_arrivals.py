"""A reply is whole with its last piece, whatever other clinics are sending."""

from flwr.proto.fleet_pb2 import PushMessagesResponse
from flwr.proto.message_pb2 import PushObjectRequest
from starlette.responses import Response

from wbc_server.link.arrivals import Arrivals


def announced(*pieces: str) -> Response:
    return Response(PushMessagesResponse(objects_to_push=pieces).SerializeToString())


def piece(name: str) -> bytes:
    content: bytes = PushObjectRequest(object_id=name).SerializeToString()
    return content


def test_a_reply_is_whole_with_its_last_piece() -> None:
    arrivals = Arrivals()
    assert not arrivals.complete("east", "push-messages", b"", announced("a", "b"))
    assert not arrivals.complete("north", "push-messages", b"", announced("c"))
    assert not arrivals.complete("east", "push-object", piece("a"), Response())
    assert arrivals.complete("east", "push-object", piece("b"), Response())
    assert arrivals.complete("north", "push-object", piece("c"), Response())


def test_a_reply_without_pieces_is_whole_at_once_and_a_failed_call_is_none() -> None:
    arrivals = Arrivals()
    assert arrivals.complete("east", "push-messages", b"", announced())
    assert not arrivals.complete("east", "push-messages", b"", Response(status_code=401))
    assert not arrivals.complete("east", "pull-messages", b"", Response())
