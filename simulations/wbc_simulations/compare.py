"""Methods side by side: every fold (one clinic held out) × seed × method, and the paired differences.

Each cell of the comparison is an ordinary run folder, so that an interrupted comparison goes on where it stopped and
every figure can be looked into. Intervals: the hierarchical bootstrap over seeds and, within a clinic, over patients.
Both sides of a difference use the same drawn seeds and the same drawn patients (paired, docs/method.md §5.5).
"""

import json
import math
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from wbc_common.confusion import percentile_interval
from wbc_common.errors import SettingError
from wbc_common.seeds import numpy_generator
from wbc_common.study import StudyConfig
from wbc_server.run_folder import RunFolder, write_atomically
from wbc_simulations.experiment import Comparison, Experiment, all_clinics, plan_study, with_method
from wbc_simulations.running import finish_run, start_run
from wbc_simulations.scores import FIGURES, CellScores, cell_scores, paired_table

_SLUG = str.maketrans({" ": "-", "+": "and", "/": "-"})


@dataclass(frozen=True)
class Cell:
    """One run of a comparison."""

    fold: str
    method: str
    seed: int
    experiment: Experiment
    study: StudyConfig

    def folder(self, output: Path) -> RunFolder:
        """Where this cell's run lies."""
        return RunFolder(output / self.fold / self.method.translate(_SLUG) / f"seed-{self.seed}")


def plan_cells(
    experiment: Experiment, *, seeds: int | None, folds: Sequence[str], changes: dict[str, Any]
) -> list[Cell]:
    """Every run of a comparison, seeds outermost, so that a partial one is balanced.

    Raises:
        SettingError: the file compares nothing, or a fold is no clinic.
    """
    comparison: Comparison = experiment.compare
    if not comparison.methods:
        raise SettingError("this experiment names no method to compare", remedy="add [[compare.methods]] to its file")
    chosen = tuple(folds) or all_clinics(experiment)
    return [
        _cell(experiment, fold, method.name, seed, changes)
        for seed in comparison.seeds[:seeds]
        for fold in chosen
        for method in comparison.methods
    ]


def _cell(experiment: Experiment, fold: str, method: str, seed: int, changes: dict[str, Any]) -> Cell:
    settings = next(candidate for candidate in experiment.compare.methods if candidate.name == method)
    variant = with_method(experiment, settings)
    study = plan_study(variant, held_out=(fold,), changes={"seed": seed, **changes})
    return Cell(fold, method, seed, variant, study)


def run_cells(experiment: Experiment, cells: Sequence[Cell], output: Path, *, jobs: int, console: Console) -> None:
    """Run every cell that is not finished, `jobs` at a time, with progress and time left."""
    left = [cell for cell in cells if not _is_finished(cell, output)]
    columns = (MofNCompleteColumn(), BarColumn(), TimeElapsedColumn(), TextColumn("elapsed,"), TimeRemainingColumn())
    with Progress(*columns, TextColumn("left"), console=console) as progress:
        task = progress.add_task("runs", total=len(cells), completed=len(cells) - len(left))
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_prepare_worker) as pool:
            futures = [pool.submit(_run_cell, cell, output) for cell in left]
            try:
                for future in futures:
                    future.result()
                    progress.advance(task)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def write_comparison(experiment: Experiment, cells: Sequence[Cell], output: Path) -> dict[str, Any]:
    """Figures of a finished comparison, also as comparison.json and comparison.md in its folder."""
    scores = {(cell.method, cell.fold, cell.seed): cell_scores(cell.folder(output)) for cell in cells}
    comparison = {
        "study": experiment.study["name"],
        "seeds": sorted({cell.seed for cell in cells}),
        "folds": list(dict.fromkeys(cell.fold for cell in cells)),
        "methods": _summarise(experiment.compare, cells, scores),
    }
    write_atomically(output / "comparison.json", json.dumps(comparison, indent=1, allow_nan=False).encode())
    write_atomically(output / "comparison.md", comparison_tables(comparison).encode())
    return comparison


def comparison_tables(comparison: dict[str, Any]) -> str:
    """The comparison as Markdown: means with paired differences, and macro-F1 by held-out clinic."""
    return paired_table(comparison)


def _summarise(
    comparison: Comparison, cells: Sequence[Cell], scores: dict[tuple[str, str, int], CellScores]
) -> dict[str, Any]:
    methods = list(dict.fromkeys(cell.method for cell in cells))
    folds = list(dict.fromkeys(cell.fold for cell in cells))
    seeds = sorted({cell.seed for cell in cells})
    draws = _draw_seeds(len(seeds), scores)
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
                fold: _interval(values[row].mean(), replicates[row]) for row, fold in enumerate(folds)
            }
    return summary


def _figure(
    figure: str,
    method: str,
    folds: list[str],
    seeds: list[int],
    scores: dict[tuple[str, str, int], CellScores],
    draws: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values [folds, seeds], and replicates [folds, R]: means over drawn seeds of scores on drawn patients."""
    table = [[scores[method, fold, seed] for seed in seeds] for fold in folds]
    values = np.array([[cell.values[figure] for cell in row] for row in table])
    replicates = np.array([[cell.replicates[figure] for cell in row] for row in table])  # [folds, seeds, R]
    columns = np.arange(draws.shape[0])[:, None]  # [R, 1]
    return values, replicates[:, draws, columns].mean(axis=-1)


def _draw_seeds(num_seeds: int, scores: dict[tuple[str, str, int], CellScores]) -> NDArray[np.int64]:
    """Seeds drawn with replacement in each replicate, int [R, seeds]."""
    replicates = min(len(next(iter(score.replicates.values()))) for score in scores.values())
    return numpy_generator("compare", "seeds").integers(0, num_seeds, size=(replicates, num_seeds))


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


def _is_finished(cell: Cell, output: Path) -> bool:
    folder = cell.folder(output)
    if folder.study_file.exists() and folder.study().hash != cell.study.hash:
        raise SettingError(
            f"{folder.path} holds a run of another plan", remedy="choose another --output, or remove that folder"
        )
    return folder.is_finished


def _prepare_worker() -> None:
    import torch

    torch.set_num_threads(1)  # several runs at a time share the cores


def _run_cell(cell: Cell, output: Path) -> None:
    folder = cell.folder(output)
    if not folder.study_file.exists():
        start_run(cell.experiment, cell.study, folder)
    finish_run(cell.experiment, cell.study, folder, "in-process")
