"""Bytes in a file without a name."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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
