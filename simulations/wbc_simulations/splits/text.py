"""The counts of `wbc-simulate splits` in at most 100 columns of plain text."""

import textwrap
from collections.abc import Sequence

import numpy as np

from wbc_common.study import StudyConfig
from wbc_simulations.splits.counts import ClinicSplit

WIDTH = 100
MANY = 60
_SHOWN_OF_MANY = 12
SHORT_CLASS = {
    "basophil": "bas",
    "eosinophil": "eos",
    "erythroblast": "ery",
    "myeloblast": "mbl",
    "promyelocyte": "pro",
    "myelocyte": "mye",
    "metamyelocyte": "met",
    "band_neutrophil": "bnd",
    "segmented_neutrophil": "seg",
    "neutrophil": "neu",
    "monocyte": "mon",
    "typical_lymphocyte": "tly",
    "atypical_lymphocyte": "aly",
    "lymphocyte": "lym",
    "smudge_cell": "smu",
}


def splits_text(splits: Sequence[ClinicSplit], study: StudyConfig) -> str:
    """A row a clinic: cells of each class, of coarse labels, and of train, val and test; then what is special."""
    classes = study.classes.classes
    training = [split for split in splits if split.role == "train"]
    shown = _shown(splits)
    total = ["all training", *map(_compact, np.sum([_values(split) for split in training], axis=0))]
    heads = ["clinic", *(SHORT_CLASS[name] for name in classes), "coarse", "train", "val", "test"]
    rows = [heads, *(_row(split) for split in shown if split.role == "train"), total]
    held_out = [_row(split) for split in shown if split.role == "held-out"]
    if not any(split.coarse.any() for split in splits):
        column = heads.index("coarse")
        rows, held_out = _without(rows, column), _without(held_out, column)
    lines = _aligned([*rows, *held_out])
    lines.insert(len(rows) - 1, "-" * len(lines[0]))
    if held_out:
        lines.insert(len(rows) + 1, "held out, measured on all their cells:")
    legend = ", ".join(f"{SHORT_CLASS[name]} {name}" for name in classes if SHORT_CLASS[name] != name)
    return "\n".join([*lines, "", *_wrapped(legend), *_notes(splits)]) + "\n"


def _shown(splits: Sequence[ClinicSplit]) -> list[ClinicSplit]:
    """All clinics, or of many the largest and the smallest."""
    if len(splits) < MANY:
        return list(splits)
    ordered = sorted(splits, key=lambda split: -int(split.cells.sum()))
    return [*ordered[:_SHOWN_OF_MANY], *ordered[-_SHOWN_OF_MANY:]]


def _values(split: ClinicSplit) -> list[int]:
    return [*map(int, split.counts.sum(axis=0)), int(split.coarse.sum()), *map(int, split.cells)]


def _row(split: ClinicSplit) -> list[str]:
    return [split.clinic, *map(_compact, _values(split))]


def _compact(value: int) -> str:
    """At most four characters: 0 as a dot, 123456 as 123k, 2345678 as 2M."""
    if value >= 999_500:
        return f"{value / 1e6:.0f}M"
    return f"{value / 1000:.0f}k" if value >= 10_000 else str(value or "·")


def _without(rows: list[list[str]], column: int) -> list[list[str]]:
    return [row[:column] + row[column + 1 :] for row in rows]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Names to the left and shortened to what is left of the width, numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    widths[0] = min(widths[0], WIDTH - sum(width + 1 for width in widths[1:]))
    lines = []
    for name, *numbers in rows:
        name = name if len(name) <= widths[0] else name[: widths[0] - 1] + "…"
        cells = [number.rjust(width) for number, width in zip(numbers, widths[1:], strict=True)]
        lines.append(" ".join([name.ljust(widths[0]), *cells]))
    return lines


def _notes(splits: Sequence[ClinicSplit]) -> list[str]:
    notes = []
    if len(splits) >= MANY:
        sizes = np.array([split.cells.sum() for split in splits])
        middle = f"{len(splits)} clinics; shown are the {_SHOWN_OF_MANY} largest and the {_SHOWN_OF_MANY} smallest; "
        notes += _wrapped(f"{middle}cells a clinic: {sizes.min()} to {sizes.max()}, median {np.median(sizes):.0f}")
    for split in splits:
        words = [*split.flags, *(["never " + ", ".join(split.missing)] if split.missing else [])]
        if words:
            notes += _wrapped(f"{split.clinic}: {'; '.join(words)}")
    return notes


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent="  ")
