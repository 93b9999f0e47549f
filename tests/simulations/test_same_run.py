"""A run is finished only on the cells that it was made of; a record of before there was a digest stays good."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from studies import tiny_experiment
from wbc_client.dataset.splits import assign_splits
from wbc_common.errors import SettingError
from wbc_simulations import clinics
from wbc_simulations.experiment import Comparison, DataSource, Experiment, Method
from wbc_simulations.running import start_run
from wbc_simulations.sweep import same_run
from wbc_simulations.sweep.cells import Cell, Filters, Record, plan_cells, state_of
from wbc_simulations.sweep.display import run_sweep
from wbc_simulations.sweep.same_run import cells_digest

ROWS = [f"{clinic}/{row}.png,{label},{clinic},p{row}" for clinic in ("kiel", "oslo") for row, label in enumerate("mlm")]
WORDS = {"m": "monocyte", "l": "lymphocyte"}


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """A manifest of two clinics, whose images are never opened here."""
    folder = tmp_path / "cells"
    for clinic in ("kiel", "oslo"):
        (folder / clinic).mkdir(parents=True)
        (folder / clinic / "0.png").write_bytes(b"image")
    write(folder, ROWS)
    return folder


def write(folder: Path, rows: list[str]) -> None:
    (folder / "manifest.csv").write_text("path,label,clinic,patient\n" + "\n".join(rows) + "\n", encoding="utf-8")
    same_run._digest_of_files.cache_clear()  # a clock may be too coarse to tell the two files apart


def a_cell(data: DataSource | None = None) -> Cell:
    values: dict[str, Any] = {"compare": Comparison(seeds=(0,), methods=(Method(name="full"),))}
    experiment: Experiment = tiny_experiment()
    experiment = experiment.model_copy(update=values | ({} if data is None else {"data": data}))
    return plan_cells(experiment, Filters(folds=["west" if data is None else "oslo"]), {})[0]


def finish(cell: Cell, output: Path, *, cells: str | None, version: str = "0.0.9") -> None:
    start_run(cell.experiment, cell.study, cell.folder(output))
    Record(None, 1.0, cells=cells, version=version).write(cell.folder(output))
    cell.folder(output).report.touch()


CHANGES: dict[str, Callable[[Path], object]] = {
    "label": lambda folder: write(folder, [ROWS[0].replace(",m,", ",l,"), *ROWS[1:]]),
    "patient": lambda folder: write(folder, [ROWS[0].replace("p0", "p1"), *ROWS[1:]]),
    "cell": lambda folder: write(folder, ROWS[1:]),
    "image": lambda folder: (folder / "kiel" / "0.png").write_bytes(b"another image"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_finished_run_on_cells_that_have_changed_is_refused(tmp_path: Path, manifest: Path, what: str) -> None:
    cell = a_cell(DataSource(kind="manifest", path=manifest, labels=WORDS))
    finish(cell, tmp_path, cells=cells_digest(cell.experiment, cell.study))
    write(manifest, ROWS)
    assert state_of(cell, tmp_path) == "finished"
    CHANGES[what](manifest)
    same_run._digest_of_files.cache_clear()
    with pytest.raises(SettingError, match=r"on other cells \(by wbc-fl 0\.0\.9\)") as refused:
        state_of(cell, tmp_path)
    assert "remove that folder" in refused.value.remedy


def test_another_rule_of_the_splits_makes_other_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = a_cell()
    finish(cell, tmp_path, cells=cells_digest(cell.experiment, cell.study))
    assert state_of(cell, tmp_path) == "finished"
    same_run._digest_of_phantoms.cache_clear()
    monkeypatch.setattr(clinics, "assign_splits", lambda *arguments: (assign_splits(*arguments) + 1) % 3)
    with pytest.raises(SettingError, match="on other cells"):
        state_of(cell, tmp_path)
    same_run._digest_of_phantoms.cache_clear()


def test_a_record_of_before_there_was_a_digest_stays_good(tmp_path: Path) -> None:
    cell = a_cell()
    finish(cell, tmp_path, cells=None)
    record = cell.folder(tmp_path).path / "cell.json"
    record.write_text('{"error": null, "seconds": 16.2}')
    assert state_of(cell, tmp_path) == "finished"
    assert json.loads(record.read_text()) == {"error": None, "seconds": 16.2}


def test_a_run_without_a_round_goes_on_with_mended_cells_and_one_with_rounds_does_not(tmp_path: Path) -> None:
    cell = a_cell()
    start_run(cell.experiment, cell.study, cell.folder(tmp_path))
    Record("an unknown label", None, cells="of other labels").write(cell.folder(tmp_path))
    assert state_of(cell, tmp_path) == "failed"
    cell.folder(tmp_path).journal.touch()
    with pytest.raises(SettingError, match="on other cells"):
        state_of(cell, tmp_path)


def test_finished_runs_of_another_version_are_kept_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cell = a_cell()
    finish(cell, tmp_path, cells=cells_digest(cell.experiment, cell.study), version="0.0.9")
    run_sweep([cell], tmp_path, jobs=1, console=Console(width=200))
    assert "finished runs kept from wbc-fl 0.0.9: 1; " in capsys.readouterr().out
