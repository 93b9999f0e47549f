"""When a clinic's reply has come in whole: a reply is announced first, and its pieces follow one by one.

A ServerApp that asks the SuperLink for a reply whose pieces are still on the way waits a whole second and more before
it asks again. So the bell is rung with the last piece.
"""

from dataclasses import dataclass, field

from flwr.proto.fleet_pb2 import PushMessagesResponse
from flwr.proto.message_pb2 import PushObjectRequest
from google.protobuf.message import DecodeError
from starlette.responses import Response


@dataclass
class Arrivals:
    """Pieces that were announced and have not come, by the node's key; a node sends one reply at a time."""

    _awaited: dict[str, set[str]] = field(default_factory=dict)

    def complete(self, key: str, call: str, body: bytes, answer: Response) -> bool:
        """Whether with this call of a node its reply is whole."""
        if answer.status_code != 200 or call not in ("push-messages", "push-object"):
            return False
        try:
            if call == "push-messages":
                announced = set(PushMessagesResponse.FromString(bytes(answer.body)).objects_to_push)
                self._awaited[key] = announced
                return not announced
            self._awaited.get(key, set()).discard(PushObjectRequest.FromString(body).object_id)
        except DecodeError:
            return True  # let the ServerApp look for itself
        return not self._awaited.get(key)
