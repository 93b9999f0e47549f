"""Workers of a sweep: failures and deaths stay with their cell; Ctrl-C keeps what is finished, and the next goes on."""

import os
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dying import die_on_east
from studies import tiny_experiment
from wbc_common.errors import DataError
from wbc_simulations.experiment import Comparison, Experiment, Method, Sweep, write_experiment
from wbc_simulations.sweep import workers
from wbc_simulations.sweep.cells import Cell, Filters, Record, plan_cells, record_of, state_of
from wbc_simulations.sweep.display import run_sweep
from wbc_simulations.sweep.same_run import cells_digest
from wbc_simulations.sweep.workers import run_cell, run_in_workers


def an_experiment(rounds: int = 2, **grid: Any) -> Experiment:
    compare = Comparison(seeds=(0, 1), methods=(Method(name="full"),))
    return tiny_experiment(rounds=rounds).model_copy(update={"compare": compare, "sweep": Sweep(grid=grid)})


def cells_of(experiment: Experiment, **filters: Any) -> list[Cell]:
    return plan_cells(experiment, Filters(**filters), {})


def test_an_error_of_one_cell_is_written_down_and_not_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cell,) = cells_of(an_experiment(), folds=["west"], seeds=[0])

    def full(*arguments: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(workers, "finish_run", full)
    record = run_cell(cell, tmp_path)
    assert (record.error, record.seconds, record.remedy) == ("OSError: disk full", None, None)
    assert state_of(cell, tmp_path) == "failed"
    monkeypatch.setattr(workers, "finish_run", lambda *arguments: cell.folder(tmp_path).report.touch())
    assert run_cell(cell, tmp_path).error is None
    assert state_of(cell, tmp_path) == "finished"


def test_the_next_step_of_an_error_is_kept_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cell,) = cells_of(an_experiment(), folds=["west"], seeds=[0])

    def refuse(*arguments: object) -> None:
        raise DataError("no cell", remedy="bring some")

    monkeypatch.setattr(workers, "finish_run", refuse)
    run_cell(cell, tmp_path)
    assert record_of(cell, tmp_path).failure == "no cell; next step: bring some"


def test_a_folder_left_before_the_plan_was_written_is_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cell,) = cells_of(an_experiment(), folds=["west"], seeds=[0])
    cell.folder(tmp_path).path.mkdir(parents=True)
    write_experiment(cell.experiment, cell.folder(tmp_path).path / "experiment.toml")
    monkeypatch.setattr(workers, "finish_run", lambda *arguments: None)
    record = run_cell(cell, tmp_path)
    assert record.error is None
    assert record.seconds is not None


def test_the_time_of_a_cell_that_was_gone_on_with_is_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cell,) = cells_of(an_experiment(), folds=["west"], seeds=[0])
    monkeypatch.setattr(workers, "finish_run", lambda *arguments: None)
    assert run_cell(cell, tmp_path).seconds is not None
    assert run_cell(cell, tmp_path).seconds is None


def test_a_run_says_on_which_cells_it_was_begun_and_by_which_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cell,) = cells_of(an_experiment(), folds=["west"], seeds=[0])
    begun: list[Record] = []
    monkeypatch.setattr(workers, "finish_run", lambda *arguments: begun.append(record_of(cell, tmp_path)))
    run_cell(cell, tmp_path)
    expected = (cells_digest(cell.experiment, cell.study), version("wbc-fl"))
    for record in (*begun, record_of(cell, tmp_path)):
        assert (record.cells, record.version) == expected


@pytest.mark.slow
def test_a_worker_that_is_killed_takes_only_its_own_cell_with_it(tmp_path: Path) -> None:
    cells = cells_of(an_experiment(), seeds=[0])  # east, north, west held out
    endings = {
        str(cell.fold): record for cell, record in run_in_workers(cells, tmp_path, jobs=2, work=die_on_east) if record
    }
    assert endings["north"] == endings["west"] == Record(None, 1.0)
    assert "without a word" in str(endings["east"].error)
    assert state_of(cells[0], tmp_path) == "failed"


@pytest.mark.slow
def test_a_failing_cell_leaves_the_others_alone_and_finished_ones_are_never_run_again(tmp_path: Path) -> None:
    experiment = an_experiment(**{"model.weights": ("none", "nowhere.safetensors")})
    cells = cells_of(experiment, seeds=[0], folds=["west"])
    console = Console(quiet=True)
    run_sweep(cells, tmp_path, jobs=2, console=console)
    assert [state_of(cell, tmp_path) for cell in cells] == ["finished", "failed"]
    assert "nowhere.safetensors" in str(record_of(cells[1], tmp_path).error)
    before = mtimes(cells[0].folder(tmp_path).path)
    run_sweep(cells, tmp_path, jobs=1, console=console)
    assert mtimes(cells[0].folder(tmp_path).path) == before
    assert state_of(cells[1], tmp_path) == "failed"


def mtimes(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def sweep(folder: Path, *arguments: str) -> list[str]:
    program = "from wbc_simulations.cli import main; main()"
    study = ["--study", str(folder / "tiny.toml"), "--output", str(folder / "out"), "--fold", "west"]
    return [sys.executable, "-c", program, "sweep", *study, "--jobs", "1", *arguments]


def nobody_is_left(session: int) -> bool:
    """Whether every process of a session ends within seconds (Python's resource tracker is the last to see it)."""
    for _ in range(500):
        try:
            os.killpg(session, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.slow
def test_ctrl_c_keeps_finished_runs_ends_the_workers_and_the_next_sweep_goes_on(tmp_path: Path) -> None:
    long = an_experiment(rounds=20)  # on a busy machine a short one would be over before the interrupt comes
    write_experiment(long, tmp_path / "tiny.toml")
    first, second = (tmp_path / "out" / "west" / "full" / f"seed-{seed}" for seed in (0, 1))
    running = subprocess.Popen(sweep(tmp_path), stderr=subprocess.PIPE, start_new_session=True, text=True)
    deadline = time.monotonic() + 120
    while not (second / "study.toml").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(running.pid, signal.SIGINT)
    assert "goes on with the others" in running.communicate(timeout=120)[1]
    assert running.returncode == 130
    assert nobody_is_left(session=running.pid)
    cells = cells_of(long, folds=["west"])
    assert [state_of(cell, tmp_path / "out") for cell in cells] == ["finished", "begun"]
    before = mtimes(first)
    done = subprocess.run(sweep(tmp_path), capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == "2 runs: 2 finished, 0 failed, 0 begun, 0 left"
    assert mtimes(first) == before
    assert (second / "report.html").exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the kernel offers no such thing")
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_sweep_that_is_killed_leaves_no_worker_behind(tmp_path: Path, end: signal.Signals) -> None:
    write_experiment(an_experiment(rounds=20), tmp_path / "tiny.toml")
    begun = tmp_path / "out" / "west" / "full" / "seed-0" / "study.toml"
    running = subprocess.Popen(sweep(tmp_path), stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while not begun.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    running.send_signal(end)
    running.wait(30)
    assert nobody_is_left(session=running.pid)
