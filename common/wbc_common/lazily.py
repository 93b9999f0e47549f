"""Arrays that are made when they are looked up, and held by nobody: of a model that is passed on, one is in memory."""

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial

import numpy as np


class Lazily(Mapping[str, np.ndarray]):
    """Arrays by name, each made anew whenever it is looked up.

    Args:
        make: gives the array of each name.
    """

    def __init__(self, make: Mapping[str, Callable[[], np.ndarray]]) -> None:
        self._make = make

    def __getitem__(self, key: str) -> np.ndarray:
        return self._make[key]()

    def __contains__(self, key: object) -> bool:
        return key in self._make

    def __iter__(self) -> Iterator[str]:
        return iter(self._make)

    def __len__(self) -> int:
        return len(self._make)


def with_arrays(
    arrays: Mapping[str, np.ndarray], more: Mapping[str, Callable[[], np.ndarray]], without: Collection[str] = ()
) -> Lazily:
    """These arrays, looked up when they are wanted, with `more` in place of or beside them, and some left out."""
    kept = {key: partial(arrays.__getitem__, key) for key in arrays if key not in without}
    return Lazily({**kept, **more})
