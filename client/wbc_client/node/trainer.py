"""The resident trainer: one process a clinic that holds torch, the decoded cells and the device while a study runs.

Flower starts a ClientApp process for every message; loading torch and decoding cells each time would cost more than
the training. So that short-lived process (`courier`) hands the message's records to this one over gRPC on a Unix
socket. The socket lies in a folder that only this user may enter: file permissions are its lock, no port is opened.
"""

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

if TYPE_CHECKING:  # the courier imports this module and holds no torch
    import torch

SERVICE, METHOD = "wbc.Trainer", "Answer"
SOCKET_VARIABLE = "WBC_TRAINER_SOCKET"
OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
READY_NAME, BUSY_NAME = "ready", "busy"  # files beside the socket, for the node: it serves, it works
_CUDA_OUT_OF_MEMORY = 2
ANSWER, ERROR = b"\x00", b"\x01"  # the first byte of a reply: records follow, or the text of an error's kind

log = logging.getLogger(__name__)


def private_socket() -> Path:
    """A path for the socket, in a new folder that only this user may enter; short, as such paths must be."""
    return Path(tempfile.mkdtemp(prefix="wbc-")) / "trainer"  # mkdtemp gives mode 0700


def serve(clinic: Path, socket: Path) -> None:
    """Open the clinic, then answer until the process is ended. One task at a time: there is one device.

    Raises:
        SettingError, DataError: the clinic cannot be opened.
    """
    from wbc_client.clinic import open_clinic

    opened = open_clinic(clinic)
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=1), options=OPTIONS)
    handler = grpc.unary_unary_rpc_method_handler(
        lambda request, _: _answer(clinic, request, socket=socket, device=opened.device)
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),))
    remove_marks(socket)
    socket.unlink(missing_ok=True)
    server.add_insecure_port(f"unix:{socket}")
    server.start()
    socket.with_name(READY_NAME).touch()
    log.info("clinic %s: trainer ready with %d cells on %s", opened.site.clinic, len(opened.cells), opened.device)
    server.wait_for_termination()


def remove_marks(socket: Path) -> None:
    """Remove what a trainer that ended left beside its socket."""
    for name in (READY_NAME, BUSY_NAME):
        socket.with_name(name).unlink(missing_ok=True)


def end_if_lost(device: "torch.device") -> None:
    """End this process if its GPU fails whatever it is asked: the node starts another one, and the courier asks that.

    After an illegal access or a failed assertion on the device every later call of the process fails like the first.
    Memory that is full is no such fault (`wbc_client.device.memory_of`).
    """
    import torch

    if device.type != "cuda":
        return
    try:
        torch.cuda.synchronize(device)
    except torch.AcceleratorError as error:
        if getattr(error, "error_code", None) != _CUDA_OUT_OF_MEMORY:
            log.exception("%s is lost to this process, which ends so that another one is started", device)
            os._exit(1)  # from a thread, where SystemExit would end that alone


def _answer(clinic: Path, request: bytes, *, socket: Path, device: "torch.device") -> bytes:
    from flwr.app import Error

    from wbc_client.boundary import answer_records
    from wbc_client.node.approval import check_approved
    from wbc_client.site import read_site
    from wbc_common.wire.packing import pack, unpack

    def approved_clinic() -> Path:
        check_approved(read_site(clinic))
        return clinic

    with _busy(socket):
        reply = answer_records(approved_clinic, lambda: unpack(BytesIO(request)))
    if not isinstance(reply, Error):
        return b"".join((ANSWER, *pack(reply)))
    end_if_lost(device)
    return ERROR + str(reply.reason).encode()


@contextmanager
def _busy(socket: Path) -> Iterator[None]:
    """Let the node see that there is work, by a file beside the socket."""
    marker = socket.with_name(BUSY_NAME)
    marker.touch()
    try:
        yield
    finally:
        marker.unlink(missing_ok=True)


def main() -> None:
    """`python -m wbc_client.node.trainer CLINIC_FILE SOCKET`."""
    from wbc_common.terminal import run_command

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    os.umask(0o077)
    run_command(lambda: serve(Path(sys.argv[1]), Path(sys.argv[2])))


if __name__ == "__main__":
    main()
