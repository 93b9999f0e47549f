"""The picture of `wbc-simulate splits`: clinics × classes as a heat map, sizes beside it, roles and flags marked.

Colour is the logarithm of a count and the count stands in it, so that one rare cell is seen beside a thousand common
ones and nobody has to read a number off a shade. Training clinics are blue with a disc, held-out ones orange with a
diamond, as in the report. From 60 clinics on, rows are thin, sorted by size and unnamed.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wbc_common.errors import SettingError
from wbc_common.study import StudyConfig
from wbc_simulations.splits.counts import ClinicSplit
from wbc_simulations.splits.text import MANY

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = (".png", ".svg", ".pdf")
_INK, _SOFT, _RULE = "#22262b", "#5d656e", "#d9dde2"
_SHADES = {"train": ("#2a5fa5", "#7fa3d1", "#c3d5ec"), "held-out": ("#b84a12", "#b84a12", "#b84a12")}
_MARKERS = {"train": "o", "held-out": "D"}
# Any: the keys' type differs between the versions of matplotlib that this package allows.
_SETTINGS: Any = {
    "svg.hashsalt": "wbc-fl",
    "text.parse_math": False,
    "font.size": 9.5,
    "text.color": _INK,
    "axes.edgecolor": _RULE,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
}
_COLUMN, _ROW, _SIZES, _HEAD, _MANY_HEIGHT = 0.5, 0.27, 2.2, 1.5, 5.5  # inches


@dataclass(frozen=True)
class _Sheet:
    """What is drawn where: `table` int64 [K, C] has its rows at heights `places` [K], its columns at `columns` [C]."""

    rows: Sequence[ClinicSplit]
    places: NDArray[np.float64]
    table: NDArray[np.int64]
    columns: NDArray[np.float64]
    labels: Sequence[str]
    held_out_height: float
    many: bool

    @property
    def total_place(self) -> float:
        """Where the row that sums up the training clinics stands."""
        return self.num_trains - 0.5 + 0.6 * (len(self.rows) / 40 if self.many else 1.0)

    @property
    def num_trains(self) -> int:
        """Training clinics."""
        return sum(split.role == "train" for split in self.rows)

    @property
    def bottom(self) -> float:
        """The lower edge."""
        return (
            max(float(self.places[-1]) + self.held_out_height / 2, self.total_place + 0.5) + 0.1 * self.held_out_height
        )


def check_format(path: Path) -> None:
    """Refuse a picture that cannot be written, before anything is counted.

    Raises:
        SettingError: the file's ending is none of FORMATS.
    """
    if path.suffix.lower() not in FORMATS:
        raise SettingError(f"a picture cannot be written as {path.name}", remedy=f"end it in {', '.join(FORMATS)}")


def draw_splits(splits: Sequence[ClinicSplit], study: StudyConfig, path: Path) -> None:
    """Draw the clinics into a file; its ending chooses the format."""
    import matplotlib
    from matplotlib.figure import Figure

    sheet = _sheet(splits, study)
    flagged = not sheet.many and any(map(_words, splits))
    flags = 0.2 + 0.07 * max(len(_words(split)) for split in splits)
    widths = [_COLUMN * (sheet.columns[-1] + 1), _SIZES, *([flags] if flagged else [])]
    height = _MANY_HEIGHT if sheet.many else _ROW * (sheet.bottom + 0.6)
    names = 0.6 if sheet.many else 0.3 + 0.075 * max(len(split.clinic) for split in splits)
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        width = names + sum(widths) + 0.2
        figure = Figure(figsize=(width, height + _HEAD), layout="constrained")
        panels = figure.subplots(1, len(widths), width_ratios=widths, sharey=True)
        _draw_counts(panels[0], sheet)
        _draw_sizes(panels[1], sheet)
        if flagged:
            _draw_flags(panels[2], sheet)
        figure.suptitle(_title(splits, study), x=0.01, ha="left", fontsize=11, weight="bold")
        caption = textwrap.fill(_caption(sheet), int(15 * width))
        figure.supxlabel(caption, x=0.01, ha="left", fontsize=8.5, color=_SOFT)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=160, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)


def _sheet(splits: Sequence[ClinicSplit], study: StudyConfig) -> _Sheet:
    many = len(splits) >= MANY
    rows = sorted(splits, key=lambda split: (split.role != "train", -int(split.cells.sum()) if many else 0))
    trains = sum(split.role == "train" for split in rows)
    height = max(1.0, len(rows) / 60) if many else 1.0  # a few held-out clinics stay visible below a thousand others
    first = trains - 0.5 + (len(rows) / 30 if many else 1.3) + height / 2
    places = np.append(np.arange(trains), first + height * np.arange(len(rows) - trains))
    counts = np.stack([split.counts.sum(axis=0) for split in rows])
    coarse = np.array([split.coarse.sum() for split in rows])
    labels = [name.replace("_", " ") for name in study.classes.classes]
    columns = np.arange(len(labels), dtype=np.float64)
    if coarse.any():  # a column of its own, where there is room apart from the classes
        columns = np.append(columns, len(labels) + (0.0 if many else 0.3))
        counts, labels = np.column_stack([counts, coarse]), [*labels, "coarse label"]
    return _Sheet(rows, places, counts, columns, labels, height, many)


def _title(splits: Sequence[ClinicSplit], study: StudyConfig) -> str:
    training = sum(split.role == "train" for split in splits)
    held_out = f" and {len(splits) - training} held-out" if len(splits) > training else ""
    cells = sum(int(split.cells.sum()) for split in splits)
    return f"{study.name}: {training} training{held_out} clinics, {cells:,} cells"


def _caption(sheet: _Sheet) -> str:
    held_out = " A held-out clinic is measured on all its cells." if sheet.rows[-1].role == "held-out" else ""
    if sheet.many:
        flagged = sum(bool(split.flags or split.missing) for split in sheet.rows)
        marked = f" {flagged} clinics are changed by settings of their own." if flagged else ""
        return "Colour: cells of a class, on a logarithmic scale; white is none." + held_out + marked
    return "Colour: cells, on a logarithmic scale. · none; × taken away by a setting." + held_out


def _draw_counts(axes: "Axes", sheet: _Sheet) -> None:
    from matplotlib.colors import LogNorm

    shades = 0.06 + 0.84 * np.asarray(LogNorm(1, max(int(sheet.table.max()), 10))(np.maximum(sheet.table, 1)))
    (_draw_thin_rows if sheet.many else _draw_tiles)(axes, sheet, shades)
    axes.set_xticks(sheet.columns, sheet.labels, rotation=40, ha="left", rotation_mode="anchor")
    axes.xaxis.tick_top()
    axes.set_xlim(-0.5, sheet.columns[-1] + 0.5)
    axes.set_ylim(sheet.bottom, -0.6)
    _bare(axes)
    axes.set_yticks([*sheet.places, sheet.total_place], [*(split.clinic for split in sheet.rows), "training total"])
    for label, split in zip(axes.get_yticklabels(), sheet.rows, strict=False):
        label.set_color(_SHADES[split.role][0])
    trains = np.array([split.role == "train" for split in sheet.rows])
    summary = [_compact(int(count)) if count else "·" for count in sheet.table[trains].sum(axis=0)]
    if sheet.many:
        summary = [f"{share:.0%}" for share in (sheet.table[trains] > 0).mean(axis=0)]
        axes.set_yticks([sheet.total_place], ["have it"], color=_INK)
        axes.set_ylabel("training clinics, the largest first", color=_SOFT)
    for x, text in zip(sheet.columns, summary, strict=True):
        _write(axes, x, sheet.total_place, text)


def _draw_tiles(axes: "Axes", sheet: _Sheet, shades: NDArray[np.float64]) -> None:
    """A tile with its count for each clinic and class; a cross where settings take the class away."""
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    for split, place, counts, row in zip(sheet.rows, sheet.places, sheet.table, shades, strict=True):
        gone = {name.replace("_", " ") for name in split.missing}
        for x, label, count, shade in zip(sheet.columns, sheet.labels, counts, row, strict=True):
            if count:
                color = colormaps["YlGnBu"](shade)
                axes.add_patch(Rectangle((x - 0.46, place - 0.46), 0.92, 0.92, facecolor=color, linewidth=0))
                _write(axes, x, place, _compact(int(count)), color="white" if shade > 0.5 else _INK)
            else:
                _write(axes, x, place, "×" if label in gone else "·", color=_SOFT)


def _draw_thin_rows(axes: "Axes", sheet: _Sheet, shades: NDArray[np.float64]) -> None:
    """One image for the training clinics and one for the held-out ones, white where there is no cell."""
    from matplotlib import colormaps

    colors = colormaps["YlGnBu"](shades)  # [K, C, 4]
    colors[sheet.table == 0] = 1.0
    for role in ("train", "held-out"):
        chosen = np.array([split.role == role for split in sheet.rows])
        if chosen.any():
            places, half = sheet.places[chosen], (1.0 if role == "train" else sheet.held_out_height) / 2
            extent = (-0.5, sheet.table.shape[1] - 0.5, places[-1] + half, places[0] - half)
            axes.imshow(colors[chosen], aspect="auto", interpolation="nearest", extent=extent)


def _draw_sizes(axes: "Axes", sheet: _Sheet) -> None:
    """Cells of each clinic, of train, val and test from dark to light, and their number; of many clinics the log."""
    cells = np.stack([split.cells for split in sheet.rows])  # [K, 3]
    parts = cells.sum(axis=1, keepdims=True) if sheet.many else cells
    for role, shades in _SHADES.items():
        chosen = np.array([split.role == role for split in sheet.rows])
        ends = parts[chosen].cumsum(axis=1)
        for part, shade in zip(range(parts.shape[1]), shades, strict=False):
            start = ends[:, part - 1] if part else np.zeros(len(ends))
            height = (1.0 if role == "train" else sheet.held_out_height) * (1.0 if sheet.many else 0.62)
            axes.barh(sheet.places[chosen], ends[:, part] - start, height, left=start, color=shade, linewidth=0)
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.set_xlabel("cells" if sheet.many else "cells: train, val, test; patients", color=_SOFT)
    _bare(axes)
    largest = int(cells.sum(axis=1).max())
    if sheet.many:
        decades = [10**power for power in range(len(str(largest)))]
        axes.set_xscale("log")
        axes.set_xlim(0.8, largest * 1.1)
        axes.set_xticks(decades, [_compact(decade) for decade in decades])
        axes.minorticks_off()
        return
    axes.set_xlim(0, largest * 1.42)
    axes.set_xticks([])
    for split, place, total in zip(sheet.rows, sheet.places, cells.sum(axis=1), strict=True):
        text, color = f"{int(total):,}; {split.patients:,}", _SHADES[split.role][0]
        axes.text(total + 0.03 * largest, place, text, va="center", fontsize=9, color=_SOFT)
        axes.plot(-0.06 * largest, place, _MARKERS[split.role], color=color, markersize=5, clip_on=False)


def _draw_flags(axes: "Axes", sheet: _Sheet) -> None:
    axes.set_xlim(0, 1)
    for split, place in zip(sheet.rows, sheet.places, strict=True):
        axes.text(0, place, _words(split), va="center", fontsize=9)
    axes.set_xticks([])
    _bare(axes)


def _words(split: ClinicSplit) -> str:
    return "; ".join(split.flags)


def _write(axes: "Axes", x: float, y: float, text: str, color: str = _INK) -> None:
    axes.text(x, y, text, ha="center", va="center", color=color, fontsize=9)


def _compact(count: int) -> str:
    return f"{count / 1000:.0f}k" if count >= 10_000 else str(count)


def _bare(axes: "Axes") -> None:
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
