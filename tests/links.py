"""The SuperLink as a ServerApp's Grid sees it: it keeps messages and their objects by name, and checks the names."""

from types import SimpleNamespace

from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import ObjectTree, PullObjectRequest, PullObjectResponse, PushObjectRequest
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PullAppMessagesResponse, PushAppMessagesRequest
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_id, get_object_tree
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree as walk
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents, validate_object_content


class RememberingLink:
    """In place of Flower's Runtime client."""

    def __init__(self) -> None:
        self._interceptors = ()
        self.objects: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.replies: dict[str, tuple[ProtoMessage, ObjectTree]] = {}  # by the name of the message that they answer

    def message(self, name: str) -> Message:
        """A message from the objects that were pushed."""
        found = inflate_object_from_contents(name, self.objects, keep_object_contents=True)
        assert isinstance(found, Message)
        found.metadata.__dict__["_message_id"] = name
        return found

    def keep_reply(self, reply: Message, name: str) -> None:
        """Take what a node pushes in answer to the message of that name."""
        reply.metadata.__dict__["_message_id"] = reply.object_id
        self.objects |= {key: value.deflate() for key, value in get_all_nested_objects(reply).items()}
        self.replies[name] = (message_to_proto(remove_content_from_message(reply)), get_object_tree(reply))

    def PushMessages(self, request: PushAppMessagesRequest) -> SimpleNamespace:  # noqa: N802
        names = [message.metadata.message_id for message in request.messages_list]
        self.asked += names
        wanted = {node.object_id for tree in request.message_object_trees for node in walk(tree)}
        return SimpleNamespace(message_ids=names, objects_to_push=wanted - self.objects.keys(), session_id="1")

    def PushObject(self, request: PushObjectRequest) -> SimpleNamespace:  # noqa: N802
        validate_object_content(request.object_content)
        assert get_object_id(request.object_content) == request.object_id
        self.objects[request.object_id] = request.object_content
        return SimpleNamespace(stored=True)

    def PullMessages(self, request: PullAppMessagesRequest) -> PullAppMessagesResponse:  # noqa: N802
        found = [self.replies[name] for name in request.message_ids if name in self.replies]
        return PullAppMessagesResponse(
            messages_list=[message for message, _ in found], message_object_trees=[tree for _, tree in found]
        )

    def PullObject(self, request: PullObjectRequest) -> PullObjectResponse:  # noqa: N802
        content = self.objects[request.object_id]
        return PullObjectResponse(object_found=True, object_available=True, object_content=content)

    def ConfirmMessageReceived(self, request: object) -> None:  # noqa: N802
        pass
