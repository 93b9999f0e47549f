"""From a finished run to the figures that a comparison pairs, and the table that shows them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wbc_common.cells import BLASTS, Registry, registry
from wbc_common.confusion import accuracy, balanced_accuracy, macro_f1, pooled_recall
from wbc_server.final.draws import read_draws
from wbc_server.run_folder import RunFolder

FEW_CELLS = 5  # where a clinic has fewer of a class, one cell decides its F1
FIGURES = {
    "macro_f1": "OOD macro-F1",
    "macro_f1_less_few": f"OOD macro-F1, {FEW_CELLS}+ cells",
    "rare_recall": "rare-class recall",
    "blast_recall": "blast recall",
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy",
}


@dataclass(frozen=True)
class CellScores:
    """Figures of one run on one held-out clinic, and the same for each bootstrap replicate float64 [R]."""

    values: dict[str, float]
    replicates: dict[str, NDArray[np.float64]]


def cell_scores(folder: RunFolder, held_out: Sequence[str]) -> dict[str, CellScores]:
    """Held-out clinic → the figures of a finished run.

    A bound of several models (`wbc_simulations.bounds`) measures each of them on the clinic: figures are their mean.
    """
    metrics = folder.read_metrics()
    draws = read_draws(folder)
    classes = registry(metrics["study"]["registry"])
    groups = {"rare_recall": _places(metrics["rare_classes"], classes), "blast_recall": _places(BLASTS, classes)}
    counts = {name: np.array(figures["confusion"]) for name, figures in metrics["held_out"].items()}
    return {
        clinic: _clinic_scores([(counts[name], draws[name]) for name in _measured_as(clinic, counts)], groups)
        for clinic in held_out
    }


def measured_by(clinic: str, model: str = "") -> str:
    """The name of a held-out clinic as one model of a bound measured it: "clinic-by-model"."""
    return f"{clinic}-by-{model}"


def _measured_as(clinic: str, names: Iterable[str]) -> list[str]:
    """The names that a held-out clinic has in a run: its own, or one for each model of a bound."""
    return [name for name in names if name == clinic or name.startswith(measured_by(clinic))]


def _clinic_scores(
    models: list[tuple[NDArray[np.int64], NDArray[np.int64]]], groups: Mapping[str, tuple[int, ...]]
) -> CellScores:
    return CellScores(
        values={name: float(_mean([_rate(name, counts, groups) for counts, _ in models])) for name in FIGURES},
        replicates={name: _mean([_rate(name, draws, groups, counts) for counts, draws in models]) for name in FIGURES},
    )


def _places(names: Sequence[str], classes: Registry) -> tuple[int, ...]:
    return tuple(classes.index(name) for name in names if name in classes.classes)


def _rate(
    name: str,
    confusion: NDArray[np.int64],
    groups: Mapping[str, tuple[int, ...]],
    observed: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """A figure of counts [C, C], or of bootstrap draws [R, C, C] from the `observed` counts."""
    if name in groups:
        return pooled_recall(confusion, groups[name], observed)
    if name == "accuracy":
        return accuracy(confusion)
    rates: dict[str, Callable[..., NDArray[np.float64]]] = {
        "macro_f1": macro_f1,
        "macro_f1_less_few": partial(macro_f1, least_cells=FEW_CELLS),
        "balanced_accuracy": balanced_accuracy,
    }
    return rates[name](confusion, observed)


def _mean(rates: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Mean over models, the first axis, of those where the rate is defined; NaN where it is nowhere."""
    table = np.stack(rates)
    defined = np.isfinite(table)
    total = np.asarray(np.where(defined, table, 0.0).sum(axis=0))
    undefined = np.full(total.shape, np.nan)
    mean: NDArray[np.float64] = np.divide(total, defined.sum(axis=0), out=undefined, where=defined.any(axis=0))
    return mean


def defined_figures(comparison: dict[str, Any]) -> list[str]:
    """The figures that some method has: five classes know no blast; macro-F1 once where no class is of few cells."""
    methods = [one["figures"] for one in comparison["methods"].values()]
    twice = {"macro_f1_less_few"} if all(one["macro_f1"] == one["macro_f1_less_few"] for one in methods) else set()
    return [
        name for name in FIGURES if name not in twice and any(one[name]["mean"]["value"] is not None for one in methods)
    ]


def paired_table(comparison: dict[str, Any]) -> str:
    """Markdown: a row a method, in points (0–100) with 95 % intervals; Δ is the paired difference to its baseline."""
    shown = defined_figures(comparison)
    head = ["method"]
    for name in shown:
        head += [FIGURES[name], "Δ"]
    lines = [_row([*head, "Δ is to"]), _row(["---", *["---:"] * (len(head) - 1), "---"])]
    for name, summary in comparison["methods"].items():
        own_baseline = summary["baseline"] == name
        cells = [name]
        for figure in shown:
            values = summary["figures"][figure]
            cells += [_points(values["mean"]), "–" if own_baseline else _points(values["difference"], sign=True)]
        lines.append(_row([*cells, "–" if own_baseline else summary["baseline"]]))
    return "\n".join([*lines, "", *_fold_lines(comparison)]) + "\n"


def _fold_lines(comparison: dict[str, Any]) -> list[str]:
    folds = comparison["folds"]
    head = "OOD macro-F1" if comparison["hold_out"] == "nested" else "OOD macro-F1 on"
    lines = [_row([head, *folds]), _row(["---", *["---:"] * len(folds)])]
    for name, summary in comparison["methods"].items():
        lines.append(_row([name, *(_points(summary["by_fold"]["macro_f1"][fold]) for fold in folds)]))
    return lines


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _points(interval: dict[str, float | None], *, sign: bool = False) -> str:
    value, low, high = (_point(interval[key], sign=sign) for key in ("value", "low", "high"))
    return value if "–" in (low, high) else f"{value} [{low}, {high}]"


def _point(figure: float | None, *, sign: bool) -> str:
    return "–" if figure is None else format(100 * figure, "+.1f" if sign else ".1f")
