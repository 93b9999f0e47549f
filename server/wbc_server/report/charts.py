"""The charts: learning by round, loss per clinic, the generalisation gap and recall per class.

Training clinics are blue discs, held-out clinics orange diamonds, everywhere: colour, shape and place say the same
thing, so no reader needs colour to follow. Lines are labelled where they end instead of in a legend.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from wbc_common.confusion import macro_f1
from wbc_server.report.inputs import ClassRecord, Evaluation, Matrix, Metrics, Round, Run
from wbc_server.report.svg import HELD_OUT, INK, PAPER, SOFT, TRAINING, drawing, new_figure, to_svg
from wbc_server.report.words import rate, readable, short
from wbc_server.selection import first_averaged_round

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curves = dict[str, tuple[list[int], list[float]]]
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.6)), (0, (5, 1.5, 1, 1.5)))
_LABEL_GAP = 0.055
_LARGEST_LOSS = 1e6  # the gate lets none larger in


def learning_chart(run: Run, few: Run) -> str | None:
    """Macro-F1 by round: each held-out clinic of `few`, and the mean validation of all training clinics of `run`.

    None without two points.
    """
    held_out = _curves(few, "held_out")
    validation = _curves(run, "validation")
    if len({number for rounds, _ in [*held_out.values(), *validation.values()] for number in rounds}) < 2:
        return None
    with drawing():
        figure = new_figure(600, 330)
        axes = figure.subplots()
        _frame_rates(axes, run)
        ends = _draw_validation(axes, validation, _curves(few, "validation"))
        for index, (clinic, (rounds, values)) in enumerate(sorted(held_out.items())):
            axes.plot(rounds, values, color=HELD_OUT, linewidth=2, linestyle=_DASHES[index % len(_DASHES)],
                      marker="D", markersize=5.5, markevery=_every(rounds))  # fmt: skip
            ends.append((values[-1], clinic, HELD_OUT))
        _label_ends(axes, ends)
        return to_svg(figure, "learning")


def loss_charts(run: Run) -> dict[str, str]:
    """One small chart of the training loss per clinic, all on the same scale."""
    names = sorted({name for record in run.rounds for name in record.train})
    curves = {name: [(record.round, _loss(record, name)) for record in run.rounds] for name in names}
    finite = [loss for points in curves.values() for _, loss in points if np.isfinite(loss)]
    top = max(finite, default=1.0) * 1.08 or 1.0
    return {
        name: _loss_chart(points, top=top, last=_last_round(run), name=f"loss{place}")
        for place, (name, points) in enumerate(curves.items())
    }


def generalisation_chart(metrics: Metrics) -> str | None:
    """Macro-F1 with its interval for each clinic, training clinics above, held-out clinics below."""
    groups = [("own test cells", metrics.in_domain, TRAINING, "o"), ("held out", metrics.held_out, HELD_OUT, "D")]
    rows = [
        (name, one, color, marker)
        for _, clinics, color, marker in groups
        for name, one in sorted(clinics.items(), key=_by_macro_f1)
    ]
    if not rows:
        return None
    with drawing():
        figure = new_figure(600, 62 + 27 * len(rows))
        axes = figure.subplots()
        for place, (_, one, color, marker) in enumerate(rows):
            _dot(axes, place, one.macro_f1, color=color, marker=marker)
        _frame_rows(axes, [short(name) for name, *_ in rows], "macro-F1")
        if metrics.in_domain and metrics.held_out:
            axes.axhline(len(metrics.in_domain) - 0.5, color=SOFT, linewidth=0.8, linestyle=(0, (2, 3)))
        return to_svg(figure, "gap")


def recall_chart(records: Sequence[ClassRecord], rare: Sequence[str], *, name: str, held_out: bool) -> str:
    """Recall of each class with its Wilson interval; rare classes are marked, absent ones say so."""
    with drawing():
        figure = new_figure(500, 62 + 25 * len(records))
        axes = figure.subplots()
        for place, record in enumerate(records):
            if record.support == 0:
                axes.text(0.015, place, "no cells here", va="center", fontsize=11.5, color=SOFT, style="italic")
            else:
                color, marker = (HELD_OUT, "D") if held_out else (TRAINING, "o")
                _dot(axes, place, record.recall, color=color, marker=marker)
        labels = [f"{readable(r.name)}{' (rare)' if r.name in rare else ''}" for r in records]
        _frame_rows(axes, labels, "recall")
        for label, record in zip(axes.get_yticklabels(), records, strict=True):
            label.set_fontweight("bold" if record.name in rare else "normal")
        return to_svg(figure, name)


def _curves(run: Run, which: str) -> Curves:
    """Macro-F1 by round of every clinic that was evaluated: name → rounds, values."""
    curves: Curves = {}
    for record in run.rounds:
        matrices: dict[str, Matrix] = (record.held_out if which == "held_out" else record.validation) or {}
        for clinic, matrix in matrices.items():
            value = float(macro_f1(np.array(matrix, dtype=np.int64)))
            if np.isfinite(value):
                rounds, values = curves.setdefault(clinic, ([], []))
                rounds.append(record.round)
                values.append(value)
    return curves


def _draw_validation(axes: "Axes", curves: Curves, shown: Curves) -> list[tuple[float, str, str]]:
    for rounds, values in shown.values():
        axes.plot(rounds, values, color=TRAINING, linewidth=0.8, alpha=0.35)
    by_round: dict[int, list[float]] = {}
    for rounds, values in curves.values():
        for number, value in zip(rounds, values, strict=True):
            by_round.setdefault(number, []).append(value)
    if not by_round:
        return []
    numbers = sorted(by_round)
    means = [float(np.mean(by_round[number])) for number in numbers]
    axes.plot(numbers, means, color=TRAINING, linewidth=2.4, marker="o", markersize=5.5, markevery=_every(numbers))
    return [(means[-1], "validation, mean", TRAINING)]


def _frame_rates(axes: "Axes", run: Run) -> None:
    from matplotlib.ticker import MaxNLocator

    last = _last_round(run)
    axes.set_xlim(1 - 0.02 * last, last + 0.02 * last)
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.50", "0.75", "1"])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.grid(axis="y")
    axes.set_xlabel("round")
    axes.set_ylabel("macro-F1")
    axes.tick_params(length=0)
    selected = run.metrics.selected_round
    if selected is not None:
        first = first_averaged_round(selected) if run.metrics.selection == "average" else selected
        if first < selected:
            axes.axvspan(first, selected, color=INK, alpha=0.08, linewidth=0)
        else:
            axes.axvline(selected, color=INK, linewidth=1, linestyle=(0, (2, 2)))
        rounds = f"mean of rounds {first} to {selected}" if first < selected else f"round {selected}"
        axes.annotate(f"exported: {rounds}", (selected, 1.0), xytext=(0, 5), textcoords="offset points",
                      ha="center" if 0.15 * last < selected < 0.85 * last else "right" if selected > 1 else "left",
                      fontsize=11.5, color=INK, annotation_clip=False)  # fmt: skip


def _label_ends(axes: "Axes", ends: list[tuple[float, str, str]]) -> None:
    """Names at the lines' right ends, pushed apart where they would overlap."""
    if not ends:
        return
    ordered = sorted(ends)
    places = [value for value, *_ in ordered]
    for index in range(1, len(places)):
        places[index] = max(places[index], places[index - 1] + _LABEL_GAP)
    excess = max(0.0, places[-1] - 1.0)
    for (value, name, color), place in zip(ordered, places, strict=True):
        axes.annotate(f"{short(name)} {rate(value)}", (1, place - excess), xycoords=("axes fraction", "data"),
                      xytext=(8, 0), textcoords="offset points", va="center", color=color, fontsize=12,
                      fontweight="bold", annotation_clip=False)  # fmt: skip


def _loss_chart(points: list[tuple[int, float]], *, top: float, last: int, name: str) -> str:
    with drawing():
        figure = new_figure(230, 104, fit_labels=False)
        axes = figure.subplots()
        axes.plot([number for number, _ in points], [loss for _, loss in points], color=TRAINING, linewidth=1.8,
                  marker="." if len(points) <= 40 else "", markersize=5 if len(points) > 1 else 12)  # fmt: skip
        axes.set_xlim(0.5, last + 0.5)
        axes.set_ylim(0, top)
        axes.set_xticks(sorted({1, last}))
        axes.locator_params(axis="y", nbins=3)
        axes.tick_params(length=0, labelsize=10.5)
        axes.grid(axis="y")
        return to_svg(figure, name)


def _dot(axes: "Axes", place: int, figure: Any, *, color: str, marker: str) -> None:
    if figure.value is None:
        axes.text(0.015, place, "not defined", va="center", fontsize=11.5, color=SOFT, style="italic")
        return
    if figure.low is not None and figure.high is not None:
        axes.hlines(place, figure.low, figure.high, color=color, linewidth=2.2)
    axes.plot([figure.value], [place], marker=marker, color=color, markersize=7.5, markeredgecolor=PAPER,
              markeredgewidth=0.6, clip_on=False, zorder=3)  # fmt: skip


def _frame_rows(axes: "Axes", labels: list[str], quantity: str) -> None:
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.50", "0.75", "1"])
    axes.grid(axis="x")
    axes.tick_params(length=0)
    axes.tick_params(axis="y", labelcolor=INK)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(quantity)


def _every(rounds: Sequence[int]) -> int:
    return max(1, len(rounds) // 12)


def _by_macro_f1(item: tuple[str, Evaluation]) -> tuple[float, str]:
    value = item[1].macro_f1.value
    return (-value if value is not None else 1.0, item[0])


def _loss(record: Round, name: str) -> float:
    """NaN where the clinic did not train in that round, or states what no axis can hold: the line breaks there."""
    loss = record.train[name].loss if name in record.train else None
    return float("nan") if loss is None or abs(loss) > _LARGEST_LOSS else loss


def _last_round(run: Run) -> int:
    return max([record.round for record in run.rounds] + [run.metrics.rounds_done, 1])
