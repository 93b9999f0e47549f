"""Locks on files that the kernel frees when their process dies: who holds one lives, whatever a file says of it."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from wbc_common.errors import WbcError


@contextmanager
def holding(path: Path, taken: WbcError) -> Iterator[None]:
    """Hold the lock of a file, which is made where needed.

    Raises:
        WbcError: `taken`, another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as lock:
        if not _taken(lock):
            raise taken
        yield


def is_held(path: Path) -> bool:
    """Whether a process holds the lock of that file; the lock of a process that died is free."""
    if not path.exists():
        return False
    with path.open("a") as lock:
        return not _taken(lock)


def _taken(lock: IO[str]) -> bool:
    """Take the lock of an open file, unless another process has it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
