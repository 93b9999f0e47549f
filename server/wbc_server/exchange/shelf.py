"""What waits in an exchange, on disk: memory holds none of it, whatever the number of clinics.

A task waits in case it must be asked again. Sums of floats depend on their order and clinics do not answer in one, so
an early answer has to wait. One file without a name, which goes with the process, holds all one behind the other; small
ones stay in memory.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from wbc_common.errors import WbcError

_SMALL_BYTES = 65_536


@dataclass(frozen=True)
class Laid:
    """Where something lies: its bytes, or its place in the file."""

    content: bytes | None = None
    start: int = 0
    length: int = 0


class Shelf:
    """Bytes put away and taken back; to be closed.

    Args:
        folder: on a disk with room for the tasks and answers of all clinics.

    Raises:
        WbcError: no file can be made there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._end = 0
        try:
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        except OSError as error:
            raise self._failure("make a file for tasks and answers", error) from error

    def _failure(self, what: str, error: OSError) -> WbcError:
        return WbcError(
            f"cannot {what} in {self._folder}: {error.strerror}",
            remedy="make room on that disk, then go on from this round: wbc-server resume FOLDER",
        )

    def lay(self, content: bytes) -> Laid:
        """Put something away.

        Raises:
            WbcError: the disk is full or cannot be written.
        """
        if len(content) <= _SMALL_BYTES:
            return Laid(content)
        laid = Laid(start=self._end, length=len(content))
        try:
            self._file.seek(laid.start)
            self._file.write(content)
            self._file.flush()
        except OSError as error:
            raise self._failure(f"put {len(content):,} bytes away", error) from error
        self._end += laid.length
        return laid

    def take(self, laid: Laid) -> bytes:
        """What was put away there."""
        if laid.content is not None:
            return laid.content
        self._file.seek(laid.start)
        return self._file.read(laid.length)

    def __enter__(self) -> "Shelf":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
