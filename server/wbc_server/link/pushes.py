"""What a clinic's node may push: its own answers to tasks.

Flower takes any message from a node that is let in, also one that is no answer and names the SuperLink as its source,
and hands that to the node that it is for: a clinic could send another clinic a task.
"""

from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.proto.fleet_pb2 import PushMessagesRequest
from google.protobuf.message import DecodeError

from wbc_server.link.doorkeeper import Refused


def check_push(body: bytes, clinic: str) -> None:
    """Check the body of a clinic's push-messages call; that its node is the key's is checked by the SuperLink.

    Raises:
        Refused: 400 it cannot be read; 403 one of its messages is no answer, or another node's.
    """
    try:
        pushed = PushMessagesRequest.FromString(body)
    except DecodeError:
        raise Refused(400, f"messages of clinic {clinic} cannot be read") from None
    for message in pushed.messages_list:
        about = message.metadata
        if not about.reply_to_message_id or about.dst_node_id != SUPERLINK_NODE_ID:
            raise Refused(403, f"clinic {clinic} sent a message that answers no task")
        if about.src_node_id != pushed.node.node_id:
            raise Refused(403, f"clinic {clinic} sent a message in another's name")
