"""The ClientApp that Flower starts at a hospital for every message: it hands the records to the resident trainer.

It holds no torch and no data, and starts in half a second. If the trainer is gone (killed, out of memory), it waits for
the one that the node starts in its place and asks again: the work follows from the message alone.
"""

import os

import grpc
from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp

from wbc_client.node.trainer import ANSWER, METHOD, OPTIONS, SERVICE, SOCKET_VARIABLE
from wbc_common.wire.packing import make_parcel, open_parcel

ERROR_CODE = 1000  # as wbc_common.wire.ERROR_CODE, whose module would bring numpy's weight for this one number
_TRAINER_MAY_BE_AWAY_SECONDS = 600.0
_MOST_TRIES = 10

app = ClientApp()


@app.query("describe")
def describe(message: Message, context: Context) -> Message:
    """Who is there, with how many cells."""
    return hand_over(message)


@app.query("stain_sums")
def stain_sums(message: Message, context: Context) -> Message:
    """Sums of stain statistics."""
    return hand_over(message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Local training."""
    return hand_over(message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Measurement on site."""
    return hand_over(message)


def hand_over(message: Message) -> Message:
    """The trainer's answer to a message. Never raises: Flower would send the exception's text."""
    try:
        reply = ask_trainer(os.environ[SOCKET_VARIABLE], open_parcel(message.content))
        if reply[:1] == ANSWER:
            return Message(make_parcel(reply[1:]), reply_to=message)
        return Message(Error(code=ERROR_CODE, reason=reply[1:].decode()), reply_to=message)
    except Exception:
        return Message(Error(code=ERROR_CODE, reason="failed (the clinic's trainer does not answer)"), reply_to=message)


def ask_trainer(socket: str, request: bytes) -> bytes:
    """The trainer's reply, from the trainer that runs or from the next one.

    Raises:
        grpc.RpcError: none answered in time.
    """
    for attempt in range(_MOST_TRIES):
        with grpc.insecure_channel(f"unix:{socket}", options=OPTIONS) as channel:
            grpc.channel_ready_future(channel).result(timeout=_TRAINER_MAY_BE_AWAY_SECONDS)
            ask = channel.unary_unary(f"/{SERVICE}/{METHOD}")
            try:
                reply: bytes = ask(request, wait_for_ready=True)
                return reply
            except grpc.RpcError as error:
                if attempt == _MOST_TRIES - 1 or error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
    raise AssertionError("the loop returns or raises")
