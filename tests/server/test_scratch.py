"""Bytes in a file without a name, and arrays that nobody holds."""

import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from wbc_server.aggregation.lazily import Lazily, with_arrays
from wbc_server.scratch import Scratch


def test_what_was_reserved_is_zeros_until_it_is_written(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path)
    first, second = scratch.reserve(3), scratch.reserve(2)
    scratch.write(second, memoryview(b"xy"))
    assert (scratch.read(first, 3), scratch.read(second, 2)) == (b"\x00\x00\x00", b"xy")
    scratch.close()
    assert list(tmp_path.iterdir()) == []


def test_threads_get_places_of_their_own(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path)
    with ThreadPoolExecutor(4) as threads:
        starts = list(threads.map(scratch.reserve, [7] * 1000))
    assert sorted(starts) == list(range(0, 7000, 7))


def test_arrays_made_lazily_are_held_by_nobody() -> None:
    arrays = Lazily({"a": lambda: np.ones(3)})
    kept = weakref.ref(arrays["a"])
    assert kept() is None
    assert (list(arrays), len(arrays), "a" in arrays, "b" in arrays) == (["a"], 1, True, False)


def test_arrays_are_replaced_added_and_left_out_without_looking_at_the_rest() -> None:
    looked_up: list[str] = []

    def make(key: str) -> np.ndarray:
        looked_up.append(key)
        return np.array(1)

    arrays = Lazily({key: lambda key=key: make(key) for key in "abc"})  # type: ignore[misc]
    found = with_arrays(arrays, {"b": lambda: np.array(2), "d": lambda: np.array(3)}, without=("c",))
    assert looked_up == []
    assert {key: int(value) for key, value in found.items()} == {"a": 1, "b": 2, "d": 3}
    assert looked_up == ["a"]
