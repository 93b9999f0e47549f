"""The tables: who holds which cells, what was predicted for them, and what left each clinic.

Tables carry the exact numbers and draw them too (a bar or a shade behind each number), so that nothing has to be read
off a chart. Everything here is plain frozen data for the template; words and digits come from `words`.
"""

import bisect
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from wbc_common.confusion import Counts, f1, macro_f1, recall, support, wilson_interval
from wbc_server.report.figures import Figure
from wbc_server.report.findings import summed
from wbc_server.report.inputs import SPLITS, ClassRecord, Clinic, Evaluation, Metrics
from wbc_server.report.words import count, counted, rate, readable, share, size

# Upper ends of the shades' shares of a row; narrow at the bottom, where errors differ by a few per cent.
SHADE_ENDS = (0.02, 0.05, 0.10, 0.20, 0.35, 0.50, 0.70, 0.90, 1.0)
EGRESS_KINDS = {
    "describe": ("describe", "cells per class and split"),
    "stain-sums": ("stain sums", "moments of optical density"),
    "class-sums": ("class sums", "sums of feature vectors per class"),
    "update": ("update", "changes of the model's weights"),
    "evaluation": ("evaluation", "confusion matrices, calibration bins"),
}


@dataclass(frozen=True)
class Bar:
    """A number and the length of the bar behind it in per cent; no bar where there is nothing."""

    text: str
    length: float = 0.0
    empty: bool = False


@dataclass(frozen=True)
class CaseMix:
    """One clinic's cells: a bar per class, then the number per split."""

    clinic: str
    role: str
    bars: tuple[Bar, ...]
    splits: tuple[str, ...]


@dataclass(frozen=True)
class Shade:
    """One cell of a confusion matrix; `shade` 0 (none) to 9 (the whole row)."""

    text: str
    shade: int
    right: bool
    title: str


@dataclass(frozen=True)
class ConfusionRow:
    """Cells of one true class."""

    name: str
    cells: str
    shades: tuple[Shade, ...]
    rare: bool


@dataclass(frozen=True)
class ClassView:
    """Everything about the classes at one clinic, or at all of them together."""

    title: str
    note: str
    rows: tuple[ConfusionRow, ...]
    records: tuple[ClassRecord, ...]


@dataclass(frozen=True)
class Result:
    """One clinic's figures."""

    clinic: str
    role: str
    cells: str
    classes: str
    figures: tuple[Figure, ...]
    blast: Figure
    worst: float | None


@dataclass(frozen=True)
class Egress:
    """What one clinic sent, by kind."""

    clinic: str
    role: str
    kinds: tuple[str, ...]
    total: Bar


def case_mix(metrics: Metrics) -> list[CaseMix]:
    """Training clinics first; bars on one logarithmic scale, so that a rare class is still visible."""
    per_clinic = {name: _all_cells(clinic, len(metrics.study.classes)) for name, clinic in metrics.clinics.items()}
    top = max([float(cells.max()) for cells in per_clinic.values()], default=1.0)
    return [
        CaseMix(
            name,
            metrics.clinics[name].role,
            tuple(_log_bar(float(cells), top) for cells in per_clinic[name]),
            tuple(_or_dash(metrics.clinics[name].cells(split)) for split in SPLITS),
        )
        for name in by_role(metrics)
    ]


def training_shares(metrics: Metrics) -> list[tuple[str, str]]:
    """Pooled training cells of each class and their share of all training cells."""
    pooled = np.zeros(len(metrics.study.classes))
    for clinic in metrics.clinics.values():
        if clinic.role == "train":
            pooled += np.array(clinic.class_counts.get("train", [0.0] * len(pooled)))
    return [(count(float(cells)), share(float(cells), float(pooled.sum()))) for cells in pooled]


def by_role(metrics: Metrics) -> list[str]:
    """Clinic names, training clinics first, then by name."""
    return sorted(metrics.clinics, key=lambda name: (metrics.clinics[name].role == "held-out", name))


def class_views(metrics: Metrics, shown: Metrics) -> list[ClassView]:
    """Each held-out clinic of `shown` and, where there are several in all, the sum of all; the sum of in-domain cells
    where there is none."""
    views = [_view(name, one.counts, one.per_class, metrics) for name, one in sorted(shown.held_out.items())]
    title, evaluations = _whole(metrics)
    total = summed(evaluations)
    if total is None or len(metrics.held_out) == 1:
        return views
    return [*views, _view(title, total, _records(total, metrics), metrics)]


def results(metrics: Metrics) -> list[Result]:
    """Held-out clinics, then the training clinics' own test cells."""
    return [
        Result(
            name,
            role,
            count(int(one.counts.sum())),
            f"{one.classes_present} of {len(metrics.study.classes)}",
            (one.macro_f1, one.balanced_accuracy, one.accuracy, one.rare_recall),
            one.blast_recall,
            one.worst_recall,
        )
        for role, group in (("held-out", metrics.held_out), ("train", metrics.in_domain))
        for name, one in sorted(group.items())
    ]


def egress(metrics: Metrics) -> tuple[list[str], list[Egress]]:
    """The kinds that were sent, known ones first, and each clinic's bytes."""
    sent = {kind for kinds in metrics.egress_bytes.values() for kind in kinds}
    kinds = [*EGRESS_KINDS, *sorted(sent - set(EGRESS_KINDS))]
    totals = {name: sum(by_kind.values()) for name, by_kind in metrics.egress_bytes.items()}
    top = max(totals.values(), default=0) or 1
    known = [name for name in by_role(metrics) if name in totals]
    rows = [
        Egress(
            name,
            metrics.clinics[name].role if name in metrics.clinics else "",
            tuple(_bytes_or_dash(metrics.egress_bytes[name].get(kind, 0)) for kind in kinds),
            Bar(size(totals[name]), 100 * totals[name] / top),
        )
        for name in [*known, *sorted(set(totals) - set(known))]
    ]
    return kinds, rows


def _whole(metrics: Metrics) -> tuple[str, dict[str, Evaluation]]:
    if metrics.held_out:
        return "All held-out clinics", metrics.held_out
    return "Test cells of the training clinics", metrics.in_domain


def _view(title: str, matrix: Counts, records: tuple[ClassRecord, ...], metrics: Metrics) -> ClassView:
    present = int((support(matrix) > 0).sum())
    value = rate(_finite(float(macro_f1(matrix))))
    note = f"{counted(int(matrix.sum()), 'cell')}, {present} of {len(matrix)} classes present, macro-F1 {value}"
    return ClassView(title, note, tuple(_confusion_rows(matrix, metrics)), records or _records(matrix, metrics))


def _confusion_rows(matrix: Counts, metrics: Metrics) -> Iterator[ConfusionRow]:
    names = [readable(name) for name in metrics.study.classes]
    for place, (name, row) in enumerate(zip(names, matrix.tolist(), strict=True)):
        shades = tuple(_shade(name, names[to], value, sum(row), to == place) for to, value in enumerate(row))
        yield ConfusionRow(name, count(sum(row)), shades, metrics.study.classes[place] in metrics.rare_classes)


def _records(matrix: Counts, metrics: Metrics) -> tuple[ClassRecord, ...]:
    recalls, f1s, cells = recall(matrix), f1(matrix), support(matrix)
    predicted = matrix.sum(axis=0)
    records = []
    for place, name in enumerate(metrics.study.classes):
        right = int(matrix[place, place])
        bounds = wilson_interval(right, int(cells[place]))
        figure = Figure(value=_finite(recalls[place]), low=_finite(bounds.low), high=_finite(bounds.high))
        precision = right / int(predicted[place]) if predicted[place] else None
        values = {"class": name, "support": int(cells[place]), "recall": figure, "f1": _finite(f1s[place])}
        records.append(ClassRecord.model_validate({**values, "precision": precision}))
    return tuple(records)


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _all_cells(clinic: Clinic, num_classes: int) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    total = np.zeros(num_classes)
    for counts in clinic.class_counts.values():
        total += np.array(counts)
    return total


def _log_bar(cells: float, top: float) -> Bar:
    if cells <= 0:
        return Bar("none", empty=True)
    return Bar(count(cells), 100 * math.log10(1 + cells) / math.log10(1 + top))


def _shade(true: str, predicted: str, value: int, row_total: int, right: bool) -> Shade:
    part = value / row_total if row_total else 0.0
    shade = 0 if value == 0 else 1 + bisect.bisect_left(SHADE_ENDS, part)
    words = f"{count(value)} of {count(row_total)} {true}: called {predicted} ({share(value, row_total)})"
    return Shade(count(value) if value else "", shade, right, words if value else "")


def _or_dash(cells: float) -> str:
    return count(cells) if cells > 0 else "–"


def _bytes_or_dash(num_bytes: int) -> str:
    return size(num_bytes) if num_bytes else "–"
