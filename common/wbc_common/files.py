"""Files that are whole or absent, secrets that only their owner reads, and where a cache lies."""

import os
from collections.abc import Iterable
from pathlib import Path


def cache_folder() -> Path:
    """Where this package keeps what it can make again: under WBC_CACHE, else in the user's cache folder."""
    base = os.environ.get("WBC_CACHE") or os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "wbc-fl"


def write_atomically(path: Path, *parts: bytes | memoryview, mode: int = 0o644) -> None:
    """Write a whole file or nothing, and durably; its folder is made where needed."""
    write_parts_atomically(path, parts, mode)


def write_parts_atomically(path: Path, parts: Iterable[bytes | memoryview], mode: int = 0o644) -> None:
    """Write a whole file, part by part as each is there, or nothing, and durably.

    To a temporary name, to disk, then renamed, and the rename to disk as well: after a power cut an older content, such
    as an ε that was spent since, does not come back.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.writelines(parts)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the folder's list of names durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_secret(path: Path, content: bytes) -> None:
    """Write a file that only its owner reads, in a folder that only its owner enters."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    write_atomically(path, content, mode=0o600)
