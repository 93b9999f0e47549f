"""What waits in an exchange, on disk: memory holds none of it, whatever the number of clinics.

A task waits in case it must be asked again. Sums of floats depend on their order and clinics do not answer in one, so
an early answer has to wait. One file without a name, which goes with the process, holds all one behind the other.
"""

import os
import tempfile
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from wbc_common.errors import WbcError


@dataclass(frozen=True)
class Place:
    """Where something lies in the file."""

    start: int
    length: int


class Shelf:
    """Bytes put away and taken back, from any thread; to be closed.

    Args:
        folder: on a disk with room for the tasks and answers of all clinics.

    Raises:
        WbcError: no file can be made there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._end = 0
        self._laying = threading.Lock()
        try:
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        except OSError as error:
            raise self._failure("make a file for tasks and answers", error) from error

    def _failure(self, what: str, error: OSError) -> WbcError:
        return WbcError(
            f"cannot {what} in {self._folder}: {error.strerror}",
            remedy="make room on that disk, then go on from this round: wbc-server resume FOLDER",
        )

    def lay(self, content: bytes | memoryview) -> Place:
        """Put something away.

        Raises:
            WbcError: the disk is full or cannot be written.
        """
        with self._laying:
            place = Place(self._end, len(content))
            try:
                self._file.seek(place.start)
                self._file.write(content)
                self._file.flush()
            except OSError as error:
                raise self._failure(f"put {len(content):,} bytes away", error) from error
            self._end += place.length
        return place

    def take(self, place: Place) -> bytes:
        """What was put away there."""
        return os.pread(self._file.fileno(), place.length, place.start)

    def __enter__(self) -> "Shelf":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


class Reading:
    """What lies at several places, read as one file; never more than is asked for is in memory."""

    def __init__(self, shelf: Shelf, places: Iterable[Place]) -> None:
        self._shelf = shelf
        self._rest = list(reversed(list(places)))

    def read(self, size: int, /) -> bytes:
        """The next so many bytes; fewer at the end."""
        found: list[bytes] = []
        while size > 0 and self._rest:
            place = self._rest.pop()
            now = Place(place.start, min(size, place.length))
            if now.length < place.length:
                self._rest.append(Place(now.start + now.length, place.length - now.length))
            found.append(self._shelf.take(now))
            size -= now.length
        return b"".join(found)
