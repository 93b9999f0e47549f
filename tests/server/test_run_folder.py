"""The run folder: where it is, when it is finished, and files that are whole or absent."""

import os
import stat
from pathlib import Path

import pytest

from wbc_common.errors import DataError, SettingError
from wbc_server.run_folder import RUN_KEY, RUN_VARIABLE, RunFolder, locate_run, write_atomically


def test_the_run_config_names_the_folder_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUN_VARIABLE, "/environment")
    assert locate_run({RUN_KEY: "/config"}).path == Path("/config")
    assert locate_run({}).path == Path("/environment")


def test_a_run_without_a_folder_is_told_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(RUN_VARIABLE, raising=False)
    with pytest.raises(SettingError, match="run-dir"):
        locate_run({})


def test_a_run_is_finished_once_its_report_is_there(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics.write_text("{}")
    assert not folder.is_finished
    folder.report.write_text("report")
    assert folder.is_finished


@pytest.mark.parametrize("content", [None, "", "{"])
def test_metrics_that_cannot_be_read_say_that_the_run_is_not_finished(tmp_path: Path, content: str | None) -> None:
    folder = RunFolder(tmp_path)
    if content is not None:
        folder.metrics.write_text(content)
    with pytest.raises(DataError, match="finish the run first"):
        folder.read_metrics()


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
