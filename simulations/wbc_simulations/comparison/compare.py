"""Methods side by side: the figures of a finished sweep with their paired differences.

Intervals: the hierarchical bootstrap over seeds and, within a clinic, over patients.
Both sides of a difference use the same drawn seeds and the same drawn patients (paired, docs/method.md §5.5).
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wbc_common.confusion import draw_seeds, over_drawn_seeds, percentile_interval
from wbc_common.errors import SettingError
from wbc_common.files import write_atomically
from wbc_common.seeds import numpy_generator
from wbc_simulations.experiment import Comparison, Experiment
from wbc_simulations.methods import on_grid
from wbc_simulations.scores import FIGURES, CellScores, cell_scores, paired_table
from wbc_simulations.sweep.cells import Cell, Filters, plan_cells
from wbc_simulations.sweep.folds import Fold

Scores = dict[tuple[str, Fold, int], CellScores]
"""Method, clinic that was held out (and without whom), seed → the figures of one run on this clinic."""


def plan_comparison(
    experiment: Experiment,
    *,
    seeds: int | None,
    folds: Sequence[str],
    changes: dict[str, Any],
    methods: Sequence[str] = (),
) -> list[Cell]:
    """Every run of a comparison.

    Args:
        seeds: how many of the experiment's seeds; None takes all.
        methods: only these, their baselines and the baselines' own; empty takes all.

    Raises:
        SettingError: the file compares nothing, or a fold is no clinic.
    """
    if not experiment.compare.methods and not experiment.sweep.grid:
        raise SettingError("this experiment names no method to compare", remedy="add [[compare.methods]] to its file")
    with_baselines = [
        name
        for comparison in (experiment.compare, on_grid(experiment.compare, experiment.sweep))
        for name in comparison.with_baselines(methods)
    ]
    filters = Filters(folds, experiment.compare.seeds[:seeds], tuple(dict.fromkeys([*with_baselines, *methods])))
    return plan_cells(experiment, filters, changes)


def write_comparison(experiment: Experiment, cells: Sequence[Cell], output: Path) -> dict[str, Any]:
    """Figures of a finished comparison, also as comparison.json and comparison.md in its folder."""
    scores = {
        (cell.method, Fold(clinic, cell.fold.without), cell.seed): found
        for cell in cells
        for clinic, found in cell_scores(cell.folder(output), cell.study.clinics.held_out).items()
    }
    columns = _columns([fold for _, fold, _ in scores])
    comparison = {
        "study": cells[0].study.name,  # the file's, unless --set gave another
        "seeds": sorted({cell.seed for cell in cells}),
        "hold_out": experiment.compare.hold_out,
        "folds": list(columns),
        "methods": _summarise(on_grid(experiment.compare, experiment.sweep), cells, scores, columns),
    }
    write_atomically(output / "comparison.json", json.dumps(comparison, indent=1, allow_nan=False).encode())
    write_atomically(output / "comparison.md", comparison_tables(comparison).encode())
    return comparison


def comparison_tables(comparison: dict[str, Any]) -> str:
    """The comparison as Markdown: means with paired differences, and macro-F1 by held-out clinic."""
    return paired_table(comparison)


def _columns(folds: Sequence[Fold]) -> dict[str, list[Fold]]:
    """Column of the table by fold → the folds whose mean stands in it: a clinic's one, or all those without it."""
    columns: dict[str, list[Fold]] = {}
    for fold in dict.fromkeys(folds):
        columns.setdefault(f"without {fold.without}" if fold.without else fold.held_out, []).append(fold)
    return columns


def _summarise(
    comparison: Comparison, cells: Sequence[Cell], scores: Scores, columns: dict[str, list[Fold]]
) -> dict[str, Any]:
    methods = list(dict.fromkeys(cell.method for cell in cells))
    folds = [fold for column in columns.values() for fold in column]
    rows = {name: [folds.index(fold) for fold in column] for name, column in columns.items()}
    seeds = sorted({cell.seed for cell in cells})
    replicates_each = min(len(next(iter(score.replicates.values()))) for score in scores.values())
    draws = draw_seeds(len(seeds), replicates_each, numpy_generator("compare", "seeds"))
    summary: dict[str, Any] = {}
    for method in methods:
        baseline = comparison.baseline_of(method)
        summary[method] = {"baseline": baseline, "by_fold": {}, "figures": {}}
        for figure in FIGURES:
            values, replicates = _figure(figure, method, folds, seeds, scores, draws)
            base_values, base_replicates = _figure(figure, baseline, folds, seeds, scores, draws)
            summary[method]["figures"][figure] = {
                "mean": _over_folds(values, replicates),
                "difference": _over_folds(values - base_values, replicates - base_replicates),
            }
            summary[method]["by_fold"][figure] = {
                name: _over_folds(values[chosen], replicates[chosen]) for name, chosen in rows.items()
            }
    return summary


def _figure(
    figure: str,
    method: str,
    folds: list[Fold],
    seeds: list[int],
    scores: Scores,
    draws: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values [folds, seeds], and replicates [folds, R]: means over drawn seeds of scores on drawn patients."""
    table = [[scores[method, fold, seed] for seed in seeds] for fold in folds]
    values = np.array([[cell.values[figure] for cell in row] for row in table])
    replicates = np.array([[cell.replicates[figure] for cell in row] for row in table])  # [folds, seeds, R]
    return values, over_drawn_seeds(replicates, draws)


def _over_folds(values: NDArray[np.float64], replicates: NDArray[np.float64]) -> dict[str, float | None]:
    """The mean of [folds, seeds] with its interval from [folds, R], over the folds where the figure is defined."""
    defined = np.isfinite(values).all(axis=1)
    if not defined.any():
        return _interval(math.nan, np.empty(0))
    return _interval(values[defined].mean(), replicates[defined].mean(axis=0))


def _interval(value: float, replicates: NDArray[np.float64]) -> dict[str, float | None]:
    """Value and 95 % interval; None where one is not defined (no cell of a class, no bootstrap draw)."""
    figures = asdict(percentile_interval(value, replicates))
    return {name: figure if math.isfinite(figure) else None for name, figure in figures.items()}
