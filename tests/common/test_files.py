"""Files that are whole or absent."""

import os
import stat
from pathlib import Path

import pytest

from wbc_common.files import write_atomically


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_atomically(path, b"old and long")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["metrics.json"]


def test_a_file_is_durable_and_then_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, synced = tmp_path / "metrics.json", list[tuple[bool, list[str]]]()

    def record(descriptor: int) -> None:
        synced.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), os.listdir(tmp_path)))

    monkeypatch.setattr(os, "fsync", record)
    write_atomically(path, b"new")
    assert synced == [(False, ["metrics.json.part"]), (True, ["metrics.json"])]


def test_a_crash_while_writing_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.json"
    write_atomically(path, b"old")

    def crash(descriptor: int) -> None:
        raise OSError("disk gone")

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(OSError, match="disk gone"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
