"""Starts a `flwr-clientapp` in a hundredth of the time: a process that has loaded Flower already and forks for each.

Flower's SuperExec runs the command `flwr-clientapp` for every message, and loading Flower takes it about a second of
CPU. The command of that name that a node puts on PATH (`launcher.py`) hands its arguments to this process instead,
over a Unix socket in a folder that only this user may enter. The child is the same program with the same bundle check
(`guard`); if this process is away, the launcher runs it the slow way.
"""

import gc
import json
import os
import signal
import socket
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import NoReturn

SOCKET_VARIABLE = "WBC_STARTER_SOCKET"
_ACCEPTED = b"+"
# Flower's program with what it imports late (httpx and gRPC load a part with the first client), and our ClientApp.
_FOR_CHILDREN = (
    "flwr.supernode.cli.flwr_clientapp",
    "flwr.supernode.runtime.run_clientapp",
    "httpcore",
    "grpc._channel",
    "wbc_client.node.courier",
)


def serve(path: Path) -> None:
    """Fork a `flwr-clientapp` for whoever asks, until the process is ended."""
    _load_for_children()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries children
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
        door.bind(str(path))
        door.listen(64)
        while True:
            caller, _ = door.accept()
            with caller:
                _fork(caller, door)


def _load_for_children() -> None:
    """Import here what each child would import itself, which takes it three times as much CPU as its work does."""
    for name in _FOR_CHILDREN:
        import_module(name)
    gc.collect()
    gc.freeze()  # a child that collects what it never made would copy every page of it


def _fork(caller: socket.socket, door: socket.socket) -> None:
    arguments = json.loads(caller.makefile("r", encoding="utf-8").readline())
    if os.fork() == 0:
        door.close()
        _run(arguments)
    caller.sendall(_ACCEPTED)


def _run(arguments: list[str]) -> NoReturn:
    """Run the program and leave at once: to take apart what was loaded copies all its pages and costs more CPU than the
    program itself."""
    from wbc_client.node import guard

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    sys.argv = ["flwr-clientapp", *arguments]
    try:
        guard.main()
    except SystemExit:
        pass
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def main() -> None:
    """`python -m wbc_client.node.starter SOCKET`."""
    serve(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
