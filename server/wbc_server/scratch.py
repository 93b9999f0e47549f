"""A file without a name, for what shall not be held in memory; it goes with the process."""

import os
import tempfile
import threading
from pathlib import Path

from wbc_common.errors import WbcError


class Scratch:
    """Bytes by their place in a file, written and read from any thread.

    Args:
        folder: on a disk with room for all that is to be written.

    Raises:
        WbcError: no file can be made there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._end = 0
        self._reserving = threading.Lock()
        try:
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        except OSError as error:
            raise self._failure("make a file", error) from error

    def _failure(self, what: str, error: OSError) -> WbcError:
        return WbcError(
            f"cannot {what} in {self._folder}: {error.strerror}",
            remedy="make room on that disk, then go on from this round: wbc-server resume FOLDER",
        )

    def reserve(self, length: int) -> int:
        """Where the next so many bytes begin; they are zeros."""
        with self._reserving:
            start, self._end = self._end, self._end + length
            self._file.truncate(self._end)
        return start

    def write(self, start: int, content: memoryview) -> None:
        """Put bytes there.

        Raises:
            WbcError: the disk is full or cannot be written.
        """
        rest = content
        try:
            while rest:
                written = os.pwrite(self._file.fileno(), rest, start)
                start, rest = start + written, rest[written:]
        except OSError as error:
            raise self._failure(f"put {len(content):,} bytes away", error) from error

    def read(self, start: int, length: int) -> bytearray:
        """The bytes there."""
        content = bytearray(length)
        rest = memoryview(content)
        while rest:
            found = os.preadv(self._file.fileno(), [rest], start)
            assert found, f"{len(rest)} bytes behind the end of the file"
            start, rest = start + found, rest[found:]
        return content

    def close(self) -> None:
        """Let the file go."""
        self._file.close()
