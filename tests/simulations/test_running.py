"""A run from start to finish: its folder, going on with it, and which run is meant."""

import os
from datetime import datetime, tzinfo
from pathlib import Path

import pytest

from studies import tiny_experiment
from wbc_common.errors import SettingError
from wbc_server.run_folder import RunFolder
from wbc_simulations import running
from wbc_simulations.experiment import plan_study
from wbc_simulations.running import continue_run, dated_folder, finish_run, start_run, unfinished_run


@pytest.fixture
def started(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    start_run(tiny_experiment(), plan_study(tiny_experiment()), folder)
    return folder


def test_a_started_run_holds_plan_and_experiment_and_says_what_made_it(started: RunFolder) -> None:
    assert {path.name for path in started.path.iterdir()} == {"study.toml", "experiment.toml"}
    head = started.study_file.read_text().splitlines()[:3]
    assert head[0] == f"# plan {plan_study(tiny_experiment()).hash}"
    assert head[1] == "# seed 0"
    assert "torch" in head[2]


def test_going_on_finds_the_same_experiment_and_plan(started: RunFolder) -> None:
    assert continue_run(started) == (tiny_experiment(), plan_study(tiny_experiment()))


def test_an_empty_folder_may_be_started_in_and_a_full_one_not(tmp_path: Path, started: RunFolder) -> None:
    (tmp_path / "empty").mkdir()
    start_run(tiny_experiment(), plan_study(tiny_experiment()), RunFolder(tmp_path / "empty"))
    with pytest.raises(SettingError, match="is not empty"):
        start_run(tiny_experiment(), plan_study(tiny_experiment()), started)


def test_a_folder_without_a_run_cannot_be_gone_on_with(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="no run to go on with"):
        continue_run(RunFolder(tmp_path))


def test_clinics_are_opened_before_the_first_round(started: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    clinics = started.path / "clinics"
    clinics.mkdir()
    for name in ("east", "north"):
        (clinics / f"{name}.toml").touch()
    monkeypatch.setattr(running, "write_clinics", lambda *args: clinics)
    monkeypatch.setattr(running, "open_clinic", lambda path: order.append(path.stem))
    monkeypatch.setattr(running, "run_study", lambda *args, ray_address: order.append("rounds"))
    finish_run(*continue_run(started), started, "in-process")
    assert order == ["east", "north", "rounds"]


def test_a_finished_run_is_left_alone(started: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    started.report.touch()

    def never(*args: object) -> None:
        raise AssertionError("run again")

    monkeypatch.setattr(running, "write_clinics", never)
    finish_run(*continue_run(started), started, "in-process")


class _Noon(datetime):
    @classmethod
    def now(cls, tz: tzinfo | None = None) -> "_Noon":
        return cls(2026, 11, 24, 12, 0, 0)


def test_two_runs_of_one_second_get_different_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(running, "datetime", _Noon)
    names = []
    for _ in range(3):
        folder = dated_folder()
        folder.mkdir(parents=True)
        names.append(folder.name)
    assert names == ["2026-11-24T12-00-00", "2026-11-24T12-00-00-2", "2026-11-24T12-00-00-3"]


def test_the_newest_unfinished_run_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for age, name in enumerate(("finished", "newer", "older")):
        folder = RunFolder(tmp_path / "runs" / name)
        folder.path.mkdir(parents=True)
        folder.study_file.touch()
        if name == "finished":
            folder.report.touch()
        os.utime(folder.path, (1000 - age, 1000 - age))
    assert unfinished_run() == Path("runs") / "newer"


def test_without_an_unfinished_run_a_name_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingError, match="no unfinished run"):
        unfinished_run()
