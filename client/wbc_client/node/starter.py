"""Starts a `flwr-clientapp` in a hundredth of the time: a process that has loaded Flower already and forks for each.

Flower's SuperExec runs the command `flwr-clientapp` for every message, and loading Flower takes it about a second of
CPU. The command of that name that a node puts on PATH (`launcher.py`) hands its arguments to this process instead,
over a Unix socket in a folder that only this user may enter. The child is the same program with the same bundle check
(`guard`); if this process is away, the launcher runs it the slow way.
"""

import json
import os
import signal
import socket
import sys
from importlib import import_module
from pathlib import Path

SOCKET_VARIABLE = "WBC_STARTER_SOCKET"
_ACCEPTED = b"+"
# Flower's program with what it imports late (httpx loads its transport with the first client), and our ClientApp.
_FOR_CHILDREN = (
    "flwr.supernode.cli.flwr_clientapp",
    "flwr.supernode.runtime.run_clientapp",
    "httpcore",
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
                if _fork(caller) == 0:
                    door.close()
                    return


def _load_for_children() -> None:
    """Import here what each child would import itself, which takes it three times as much CPU as its work does."""
    for name in _FOR_CHILDREN:
        import_module(name)


def _fork(caller: socket.socket) -> int:
    """In the parent the child's number; in the child 0, once its program has run."""
    arguments = json.loads(caller.makefile("r", encoding="utf-8").readline())
    child = os.fork()
    if child == 0:
        _run(arguments)
    else:
        caller.sendall(_ACCEPTED)
    return child


def _run(arguments: list[str]) -> None:
    from wbc_client.node import guard

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    sys.argv = ["flwr-clientapp", *arguments]
    guard.main()


def main() -> None:
    """`python -m wbc_client.node.starter SOCKET`."""
    serve(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
