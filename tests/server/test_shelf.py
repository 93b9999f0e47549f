"""The shelf: bytes come back as they were laid, and a full disk is said."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from wbc_common.errors import WbcError
from wbc_server.exchange.shelf import Reading, Shelf

LARGE = bytes(range(256)) * 1000


def test_answers_come_back_in_any_order(tmp_path: Path) -> None:
    with Shelf(tmp_path) as shelf:
        laid = [shelf.lay(content) for content in (LARGE, b"small", b"", LARGE[::-1])]
        assert [shelf.take(one) for one in reversed(laid)] == [LARGE[::-1], b"", b"small", LARGE]


def test_places_are_read_as_one_file(tmp_path: Path) -> None:
    with Shelf(tmp_path) as shelf:
        end, start = shelf.lay(LARGE[100:]), shelf.lay(LARGE[:100])
        reading = Reading(shelf, [start, end])
        assert [reading.read(size) for size in (30, 0, 100, 10**9, 1)] == [
            LARGE[:30],
            b"",
            LARGE[30:130],
            LARGE[130:],
            b"",
        ]


def test_many_threads_lay_at_once(tmp_path: Path) -> None:
    with Shelf(tmp_path) as shelf, ThreadPoolExecutor(4) as threads:
        contents = [bytes([number]) * (10_000 + number) for number in range(100)]
        assert [shelf.take(place) for place in threads.map(shelf.lay, contents)] == contents


def test_nothing_is_left_on_disk(tmp_path: Path) -> None:
    with Shelf(tmp_path) as shelf:
        shelf.lay(LARGE)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_with_the_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with Shelf(tmp_path) as shelf:
        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(WbcError, match="No space left on device") as found:
            shelf.lay(LARGE)
    assert "resume" in str(found.value.remedy)


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(WbcError, match="cannot make a file in"):
        Shelf(tmp_path / "gone")
