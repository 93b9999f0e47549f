"""Arrays that nobody holds."""

import weakref

import numpy as np

from wbc_common.lazily import Lazily, with_arrays


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
