"""Where running sums lie: in memory, or in a file, of which memory holds a piece at a time."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wbc_server.aggregation.pieces import Piece
from wbc_server.scratch import Scratch

Float64s = NDArray[np.float64]


class Sums(Protocol):
    """Flat float64 arrays by key; different pieces may be changed at the same time."""

    def begin(self, key: str, size: int) -> None:
        """Have an array of so many zeros."""

    def at(self, piece: Piece) -> AbstractContextManager[Float64s]:
        """A piece to be changed in place."""

    def read(self, key: str) -> Float64s:
        """A copy of a whole array."""


class SumsInMemory:
    """Sums where memory is no matter."""

    def __init__(self) -> None:
        self._flat: dict[str, Float64s] = {}

    def begin(self, key: str, size: int) -> None:
        """Have an array of so many zeros."""
        self._flat[key] = np.zeros(size)

    @contextmanager
    def at(self, piece: Piece) -> Iterator[Float64s]:
        """A piece to be changed in place."""
        yield self._flat[piece.key][piece.part]

    def read(self, key: str) -> Float64s:
        """A copy of a whole array."""
        return self._flat[key].copy()


class SumsInFile:
    """Sums in a file of that folder, which goes with this object; WbcError where the disk cannot take them."""

    def __init__(self, folder: Path) -> None:
        self._file = Scratch(folder)
        self._places: dict[str, tuple[int, int]] = {}  # key → first byte, elements

    def begin(self, key: str, size: int) -> None:
        """Have an array of so many zeros."""
        self._places[key] = self._file.reserve(8 * size), size

    @contextmanager
    def at(self, piece: Piece) -> Iterator[Float64s]:
        """A piece to be changed in place."""
        start = self._places[piece.key][0] + 8 * piece.part.start
        values = self._floats(start, piece.part.stop - piece.part.start)
        yield values
        self._file.write(start, values.data.cast("B"))

    def read(self, key: str) -> Float64s:
        """A copy of a whole array."""
        return self._floats(*self._places[key])

    def _floats(self, start: int, size: int) -> Float64s:
        return np.frombuffer(self._file.read(start, 8 * size))
