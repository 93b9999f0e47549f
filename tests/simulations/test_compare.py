"""Comparisons: paired differences on hand-made scores, and a whole one from its runs to its tables."""

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
from wbc_simulations.comparison import compare
from wbc_simulations.comparison.compare import comparison_tables, plan_comparison, write_comparison
from wbc_simulations.experiment import Comparison, Experiment, Method, Sweep
from wbc_simulations.scores import FIGURES, CellScores
from wbc_simulations.sweep.cells import Cell
from wbc_simulations.sweep.display import run_sweep

PLAIN = {"loss": {"classification": "cross-entropy", "alignment_weight": 0.0, "guide_weight": 0.0}}
Scores = Callable[[Cell], CellScores]


def an_experiment(seeds: tuple[int, ...] = (0, 1, 2)) -> Experiment:
    methods = (Method(name="plain + CE", settings=PLAIN), Method(name="full"))
    return tiny_experiment().model_copy(update={"compare": Comparison(seeds=seeds, methods=methods)})


def cells_of(experiment: Experiment, **values: Any) -> list[Cell]:
    return plan_comparison(experiment, **{"seeds": None, "folds": (), "changes": {}, **values})


def compared(
    folder: Path, monkeypatch: pytest.MonkeyPatch, scores: Scores, *, experiment: Experiment | None = None
) -> dict[str, Any]:
    """The comparison of runs whose figures are given instead of measured."""
    experiment = experiment or an_experiment()
    cells = cells_of(experiment)
    by_folder = {cell.folder(folder).path: cell for cell in cells}
    monkeypatch.setattr(
        compare, "cell_scores", lambda run, held_out: dict.fromkeys(held_out, scores(by_folder[run.path]))
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return write_comparison(experiment, cells, folder)


def made_of(value: float, draws: np.ndarray) -> CellScores:
    return CellScores(dict.fromkeys(FIGURES, value), dict.fromkeys(FIGURES, draws))


def noise(cell: Cell) -> np.ndarray:
    """Draws of a fold and seed: the same for both methods, different for everything else."""
    return np.random.default_rng([cell.seed, sum(str(cell.fold).encode())]).normal(0.5, 0.1, size=200)


def test_one_method_is_compared_with_its_baseline_and_that_with_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = (("plain", None), ("full", None), ("private", "full"), ("other", None))
    methods = tuple(Method(name=name, baseline=baseline, settings=PLAIN) for name, baseline in names)
    experiment = an_experiment().model_copy(update={"compare": Comparison(seeds=(0,), methods=methods)})
    cells = cells_of(experiment, methods=["private"])
    assert {cell.method for cell in cells} == {"plain", "full", "private"}
    value = {"plain": 0.1, "full": 0.5, "private": 0.4}
    by_folder = {cell.folder(tmp_path).path: made_of(value[cell.method], np.full(5, 0.5)) for cell in cells}
    monkeypatch.setattr(compare, "cell_scores", lambda run, held_out: dict.fromkeys(held_out, by_folder[run.path]))
    summary = write_comparison(experiment, cells, tmp_path)["methods"]
    found = {name: methods["figures"]["accuracy"]["difference"]["value"] for name, methods in summary.items()}
    assert found == pytest.approx({"plain": 0.0, "full": 0.4, "private": -0.1})


def test_methods_that_are_each_others_baselines_are_both_there() -> None:
    methods = (Method(name="one", baseline="two"), Method(name="two", baseline="one"), Method(name="three"))
    experiment = an_experiment().model_copy(update={"compare": Comparison(seeds=(0,), methods=methods)})
    assert {cell.method for cell in cells_of(experiment, methods=["two"])} == {"one", "two"}


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
    monkeypatch.setattr(compare, "cell_scores", lambda run, held_out: dict.fromkeys(held_out, made_of(0.5, draws)))
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
        value = {"east": np.nan, "north": 0.2, "west": 0.4}[cell.fold.held_out]
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


def test_nested_folds_stand_in_the_table_by_the_clinic_that_had_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, full = (Method(name=name, settings=PLAIN) for name in ("plain", "full"))
    compare_nested = Comparison(hold_out="nested", seeds=(0,), methods=(plain, full))
    experiment = tiny_experiment().model_copy(update={"compare": compare_nested})

    def scores(cell: Cell) -> CellScores:
        by_held_out = {"east": 0.1, "north": 0.3, "west": 0.8}[cell.fold.held_out]
        value = by_held_out + (0.06 if (cell.method, cell.fold.without) == ("full", "west") else 0.0)
        return made_of(value, np.full(5, value))

    comparison = compared(tmp_path, monkeypatch, scores, experiment=experiment)
    assert comparison["folds"] == ["without east", "without north", "without west"]
    full_summary = comparison["methods"]["full"]
    by_fold = {name: interval["value"] for name, interval in full_summary["by_fold"]["macro_f1"].items()}
    assert by_fold == pytest.approx({"without east": 0.55, "without north": 0.45, "without west": 0.26})
    assert full_summary["figures"]["macro_f1"]["difference"]["value"] == pytest.approx(0.06 * 2 / 6)
    assert "| OOD macro-F1 | without east | without north | without west |" in comparison_tables(comparison)


def test_on_a_grid_each_method_is_paired_with_its_baseline_at_the_same_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = an_experiment(seeds=(0,)).model_copy(update={"sweep": Sweep(grid={"rounds": (1, 2)})})

    def scores(cell: Cell) -> CellScores:
        value = cell.study.rounds / 10 + (0.01 if cell.method.startswith("full") else 0.0)
        return made_of(value, np.full(5, value))

    methods = compared(tmp_path, monkeypatch, scores, experiment=experiment)["methods"]
    assert {name: summary["baseline"] for name, summary in methods.items()} == {
        "plain + CE, rounds=1": "plain + CE, rounds=1",
        "full, rounds=1": "plain + CE, rounds=1",
        "plain + CE, rounds=2": "plain + CE, rounds=2",
        "full, rounds=2": "plain + CE, rounds=2",
    }
    for rounds in (1, 2):
        figures = methods[f"full, rounds={rounds}"]["figures"]["accuracy"]
        assert figures["mean"]["value"] == pytest.approx(rounds / 10 + 0.01)
        assert figures["difference"]["value"] == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("wanted", "planned"),
    [
        (["full, rounds=2"], ["plain + CE, rounds=2", "full, rounds=2"]),
        (["full"], [f"{name}, rounds={rounds}" for rounds in (1, 2) for name in ("plain + CE", "full")]),
        (["plain + CE, rounds=1"], ["plain + CE, rounds=1"]),
    ],
)
def test_a_method_comes_with_its_baseline_also_at_one_point_of_a_grid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: list[str], planned: list[str]
) -> None:
    experiment = an_experiment(seeds=(0,)).model_copy(update={"sweep": Sweep(grid={"rounds": (1, 2)})})
    cells = cells_of(experiment, folds=["west"], methods=wanted)
    assert [cell.method for cell in cells] == planned
    scores = made_of(0.5, np.full(5, 0.5))
    monkeypatch.setattr(compare, "cell_scores", lambda run, held_out: dict.fromkeys(held_out, scores))
    assert set(write_comparison(experiment, cells, tmp_path)["methods"]) == set(planned)


def test_the_comparison_is_written_as_json_and_as_markdown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    comparison = compared(tmp_path, monkeypatch, lambda cell: made_of(0.5, noise(cell)))
    assert json.loads((tmp_path / "comparison.json").read_text()) == comparison
    assert (tmp_path / "comparison.md").read_text() == comparison_tables(comparison)
    assert (comparison["seeds"], comparison["folds"]) == ([0, 1, 2], ["east", "north", "west"])


def test_a_comparison_has_the_name_that_the_command_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # On a page it would take the place of the table of the file's own name otherwise.
    experiment, scores = an_experiment(seeds=(0,)), made_of(0.5, np.full(5, 0.5))
    monkeypatch.setattr(compare, "cell_scores", lambda run, held_out: dict.fromkeys(held_out, scores))
    for changes, name in (({}, experiment.study["name"]), ({"name": "larger images"}, "larger images")):
        cells = cells_of(experiment, changes=changes)
        assert write_comparison(experiment, cells, tmp_path)["study"] == name


@pytest.mark.slow
def test_a_whole_comparison_runs_and_is_not_run_twice(tmp_path: Path) -> None:
    experiment = an_experiment(seeds=(0,))
    cells = cells_of(experiment, folds=["north", "west"], changes={"rounds": 1})
    run_sweep(cells, tmp_path, jobs=1, console=Console(quiet=True))
    reports = [cell.folder(tmp_path).report.stat().st_mtime_ns for cell in cells]
    run_sweep(cells, tmp_path, jobs=1, console=Console(quiet=True))
    assert [cell.folder(tmp_path).report.stat().st_mtime_ns for cell in cells] == reports
    comparison = write_comparison(experiment, cells, tmp_path)
    full = comparison["methods"]["full"]["figures"]["macro_f1"]
    plain = comparison["methods"]["plain + CE"]["figures"]["macro_f1"]
    assert full["difference"]["value"] == pytest.approx(full["mean"]["value"] - plain["mean"]["value"])
    assert full["difference"]["low"] <= full["difference"]["value"] <= full["difference"]["high"]
