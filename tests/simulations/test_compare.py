"""Comparisons: which runs, paired differences on hand-made scores, and folders that are gone on with."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from studies import tiny_experiment
from wbc_common.errors import SettingError
from wbc_common.study import write_study
from wbc_simulations import compare
from wbc_simulations.compare import Cell, comparison_tables, plan_cells, run_cells, write_comparison
from wbc_simulations.experiment import Comparison, Experiment, Method
from wbc_simulations.scores import FIGURES, CellScores

PLAIN = {"loss": {"classification": "cross-entropy", "alignment_weight": 0.0, "guide_weight": 0.0}}
Scores = Callable[[Cell], CellScores]


def an_experiment(seeds: tuple[int, ...] = (0, 1, 2)) -> Experiment:
    methods = (Method(name="plain + CE", settings=PLAIN), Method(name="full"))
    return tiny_experiment().model_copy(update={"compare": Comparison(seeds=seeds, methods=methods)})


def cells_of(experiment: Experiment, **values: Any) -> list[Cell]:
    return plan_cells(experiment, **{"seeds": None, "folds": (), "changes": {}, **values})


def compared(
    folder: Path, monkeypatch: pytest.MonkeyPatch, scores: Scores, *, experiment: Experiment | None = None
) -> dict[str, Any]:
    """The comparison of runs whose figures are given instead of measured."""
    experiment = experiment or an_experiment()
    cells = cells_of(experiment)
    by_folder = {cell.folder(folder).path: cell for cell in cells}
    monkeypatch.setattr(compare, "cell_scores", lambda run: scores(by_folder[run.path]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return write_comparison(experiment, cells, folder)


def made_of(value: float, draws: np.ndarray) -> CellScores:
    return CellScores(dict.fromkeys(FIGURES, value), dict.fromkeys(FIGURES, draws))


def noise(cell: Cell) -> np.ndarray:
    """Draws of a fold and seed: the same for both methods, different for everything else."""
    return np.random.default_rng([cell.seed, sum(cell.fold.encode())]).normal(0.5, 0.1, size=200)


def test_every_fold_seed_and_method_is_run_once_seeds_outermost() -> None:
    cells = cells_of(an_experiment())
    assert len(cells) == 3 * 3 * 2 == len({(cell.fold, cell.seed, cell.method) for cell in cells})
    assert [cell.seed for cell in cells] == [0] * 6 + [1] * 6 + [2] * 6
    assert len({cell.folder(Path("out")).path for cell in cells}) == 18
    assert str(cells[0].folder(Path("out")).path) == "out/east/plain-and-CE/seed-0"


def test_each_run_holds_out_its_fold_under_its_method_and_seed() -> None:
    for cell in cells_of(an_experiment()):
        assert cell.study.clinics.held_out == (cell.fold,)
        assert cell.study.seed == cell.seed
        assert cell.study.loss.guide_weight == (0.0 if cell.method == "plain + CE" else 0.5)


def test_fewer_seeds_named_folds_and_changed_settings_are_taken() -> None:
    cells = cells_of(an_experiment(), seeds=1, folds=["west"], changes={"rounds": 7})
    assert [(cell.fold, cell.seed, cell.study.rounds) for cell in cells] == [("west", 0, 7)] * 2


def test_an_experiment_without_methods_or_an_unknown_fold_is_refused() -> None:
    with pytest.raises(SettingError, match="no method to compare"):
        cells_of(tiny_experiment())
    with pytest.raises(SettingError, match="south"):
        cells_of(an_experiment(), folds=["south"])


def test_a_method_that_is_a_tenth_better_on_every_draw_is_a_tenth_better_for_sure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scores(cell: Cell) -> CellScores:
        lift = 0.1 if cell.method == "full" else 0.0
        return made_of(float(noise(cell).mean()) + lift, noise(cell) + lift)

    methods = compared(tmp_path, monkeypatch, scores)["methods"]
    for figure in FIGURES:
        difference = methods["full"]["figures"][figure]["difference"]
        assert difference == pytest.approx({"value": 0.1, "low": 0.1, "high": 0.1})
        mean = methods["full"]["figures"][figure]["mean"]
        assert mean["high"] - mean["low"] > 0.01  # each method by itself is not sure
    own = methods["plain + CE"]["figures"]["accuracy"]["difference"]
    assert own == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_with_one_seed_and_one_fold_the_interval_is_that_of_the_runs_own_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws = np.arange(201) / 200
    experiment = an_experiment(seeds=(4,))
    cells = cells_of(experiment, folds=["west"])
    monkeypatch.setattr(compare, "cell_scores", lambda run: made_of(0.5, draws))
    methods = write_comparison(experiment, cells, tmp_path)["methods"]
    mean = methods["full"]["figures"]["accuracy"]["mean"]
    assert mean == pytest.approx({"value": 0.5, "low": 0.025, "high": 0.975})
    assert methods["full"]["by_fold"]["accuracy"]["west"] == mean


def test_seeds_that_disagree_widen_the_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scores(cell: Cell) -> CellScores:
        return made_of(cell.seed / 10, np.full(200, cell.seed / 10))  # 0, 0.1 and 0.2, no doubt about patients

    mean = compared(tmp_path, monkeypatch, scores)["methods"]["full"]["figures"]["accuracy"]["mean"]
    assert mean["value"] == pytest.approx(0.1)
    assert mean["low"] < 0.05 < 0.15 < mean["high"]


def test_a_fold_where_a_figure_is_not_defined_leaves_it_to_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scores(cell: Cell) -> CellScores:
        value = {"east": np.nan, "north": 0.2, "west": 0.4}[cell.fold]
        return made_of(value, np.full(5, value))

    comparison = compared(tmp_path, monkeypatch, scores)
    full = comparison["methods"]["full"]
    assert full["figures"]["rare_recall"]["mean"] == pytest.approx({"value": 0.3, "low": 0.3, "high": 0.3})
    assert full["figures"]["rare_recall"]["difference"]["value"] == 0.0
    assert full["by_fold"]["rare_recall"]["east"] == {"value": None, "low": None, "high": None}
    json.dumps(comparison, allow_nan=False)


@pytest.mark.parametrize(("value", "draws"), [(np.nan, np.full(5, np.nan)), (0.5, np.empty(0))], ids=["nan", "none"])
def test_a_figure_without_a_value_or_without_draws_is_null_in_json_and_readable_in_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float, draws: np.ndarray
) -> None:
    comparison = compared(tmp_path, monkeypatch, lambda cell: made_of(value, draws))
    mean = comparison["methods"]["full"]["figures"]["macro_f1"]["mean"]
    assert mean == {"value": None if np.isnan(value) else value, "low": None, "high": None}
    assert "nan" not in (tmp_path / "comparison.json").read_text().lower().replace("\n", "")
    assert "nan" not in comparison_tables(comparison)


def test_the_comparison_is_written_as_json_and_as_markdown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    comparison = compared(tmp_path, monkeypatch, lambda cell: made_of(0.5, noise(cell)))
    assert json.loads((tmp_path / "comparison.json").read_text()) == comparison
    assert (tmp_path / "comparison.md").read_text() == comparison_tables(comparison)
    assert (comparison["seeds"], comparison["folds"]) == ([0, 1, 2], ["east", "north", "west"])


class _Pool:
    """Stands for the worker processes and remembers what they were given."""

    given: list[Cell]

    def __init__(self, *args: object, **options: object) -> None:
        pass

    def __enter__(self) -> "_Pool":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def submit(self, work: object, cell: Cell, output: Path) -> "_Pool":
        type(self).given.append(cell)
        return self

    def result(self) -> None:
        pass


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> type[_Pool]:
    _Pool.given = []
    monkeypatch.setattr(compare, "ProcessPoolExecutor", _Pool)
    return _Pool


def leave(cell: Cell, output: Path, *, finished: bool, **changes: Any) -> None:
    """A run folder as a run of this cell, or of a changed plan, leaves it."""
    folder = cell.folder(output)
    folder.path.mkdir(parents=True)
    write_study(cell.study.model_copy(update=changes), folder.study_file)
    if finished:
        folder.report.touch()


def run(cells: list[Cell], output: Path) -> None:
    run_cells(an_experiment(), cells, output, jobs=1, console=Console(quiet=True))


def test_finished_runs_are_not_run_again_and_unfinished_ones_are(tmp_path: Path, pool: type[_Pool]) -> None:
    cells = cells_of(an_experiment(), seeds=1, folds=["east", "west"])
    leave(cells[1], tmp_path, finished=True)
    leave(cells[2], tmp_path, finished=False)
    run(cells, tmp_path)
    assert pool.given == [cells[0], cells[2], cells[3]]


@pytest.mark.parametrize("finished", [True, False])
def test_a_folder_with_a_run_of_another_plan_is_refused_before_anything_runs(
    tmp_path: Path, pool: type[_Pool], finished: bool
) -> None:
    cells = cells_of(an_experiment(), seeds=1, folds=["west"])
    leave(cells[1], tmp_path, finished=finished, rounds=3)
    with pytest.raises(SettingError, match="holds a run of another plan"):
        run(cells, tmp_path)
    assert pool.given == []


@pytest.mark.slow
def test_a_whole_comparison_runs_and_is_not_run_twice(tmp_path: Path) -> None:
    experiment = an_experiment(seeds=(0,))
    cells = cells_of(experiment, folds=["north", "west"], changes={"rounds": 1})
    run(cells, tmp_path)
    reports = [cell.folder(tmp_path).report.stat().st_mtime_ns for cell in cells]
    run(cells, tmp_path)
    assert [cell.folder(tmp_path).report.stat().st_mtime_ns for cell in cells] == reports
    comparison = write_comparison(experiment, cells, tmp_path)
    full = comparison["methods"]["full"]["figures"]["macro_f1"]
    plain = comparison["methods"]["plain + CE"]["figures"]["macro_f1"]
    assert full["difference"]["value"] == pytest.approx(full["mean"]["value"] - plain["mean"]["value"])
    assert full["difference"]["low"] <= full["difference"]["value"] <= full["difference"]["high"]
