"""The shelf: bytes come back as they were laid, large ones from disk, and a full disk is said."""

import errno
from pathlib import Path

import pytest

from wbc_common.errors import WbcError
from wbc_server.exchange.shelf import Shelf

LARGE = bytes(range(256)) * 1000


def test_answers_come_back_in_any_order(tmp_path: Path) -> None:
    with Shelf(tmp_path) as shelf:
        laid = [shelf.lay(content) for content in (LARGE, b"small", LARGE[::-1])]
        assert [shelf.take(one) for one in reversed(laid)] == [LARGE[::-1], b"small", LARGE]


def test_large_answers_are_not_held_in_memory(tmp_path: Path) -> None:
    with Shelf(tmp_path) as shelf:
        assert shelf.lay(LARGE).content is None


def test_nothing_is_left_on_disk(tmp_path: Path) -> None:
    with Shelf(tmp_path) as shelf:
        shelf.lay(LARGE)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_with_the_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with Shelf(tmp_path) as shelf:
        monkeypatch.setattr(shelf, "_file", type("Full", (), {"seek": full, "close": lambda self: None})())
        with pytest.raises(WbcError, match="No space left on device") as found:
            shelf.lay(LARGE)
    assert "resume" in str(found.value.remedy)


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(WbcError, match="cannot make a file for tasks and answers in"):
        Shelf(tmp_path / "gone")
