"""What waits in an exchange, on disk: memory holds none of it, whatever the number of clinics.

A task waits in case it must be asked again. Sums of floats depend on their order and clinics do not answer in one, so
an early answer has to wait. One file holds all of it, one behind the other.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from wbc_server.scratch import Scratch


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
        self._file = Scratch(folder)

    def lay(self, content: memoryview) -> Place:
        """Put something away; WbcError if the disk is full or cannot be written."""
        place = Place(self._file.reserve(len(content)), len(content))
        self._file.write(place.start, content)
        return place

    def take(self, place: Place) -> bytearray:
        """What was put away there."""
        return self._file.read(place.start, place.length)

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
        found: list[bytearray] = []
        while size > 0 and self._rest:
            place = self._rest.pop()
            now = Place(place.start, min(size, place.length))
            if now.length < place.length:
                self._rest.append(Place(now.start + now.length, place.length - now.length))
            found.append(self._shelf.take(now))
            size -= now.length
        return b"".join(found)
