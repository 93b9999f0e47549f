"""The run folder: where it is, and when it is finished."""

from pathlib import Path

import pytest

from wbc_common.errors import DataError, SettingError
from wbc_server.run_folder import RUN_KEY, RUN_VARIABLE, RunFolder, locate_run


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
