"""A comparison as a picture: each method's paired difference with its 95 % interval, one panel a figure."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from wbc_simulations.scores import FIGURES, defined_figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_GAIN, _LOSS, _OPEN, _INK = "#1a6fb5", "#c2410c", "#8a8f98", "#1f2328"


def draw_comparison(comparison: dict[str, Any], path: Path) -> None:
    """Write the picture; the file's ending names the format (.svg, .png, .pdf).

    A difference whose interval excludes 0 is filled: blue above, orange below; others are open and grey.
    """
    import matplotlib
    from matplotlib.figure import Figure

    methods = [name for name, summary in comparison["methods"].items() if summary["baseline"] != name]
    figures = defined_figures(comparison)
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"svg.hashsalt": "wbc-fl", "font.size": 9, "text.parse_math": False})
        picture = Figure(figsize=(3.0 + 2.0 * len(figures), 1.1 + 0.24 * max(len(methods), 1)), layout="constrained")
        panels = picture.subplots(1, len(figures), sharey=True, squeeze=False)[0]
        for axes, figure in zip(panels, figures, strict=True):
            _panel(axes, figure, [comparison["methods"][name]["figures"][figure]["difference"] for name in methods])
        panels[0].set_yticks(range(len(methods)), methods)
        panels[0].set_ylim(len(methods) - 0.4, -0.6)
        picture.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=150)


def _panel(axes: "Axes", figure: str, differences: list[dict[str, float | None]]) -> None:
    axes.axvline(0, color=_INK, linewidth=0.8)
    for place, interval in enumerate(differences):
        if interval["value"] is None:
            continue
        value, low, high = (100 * (interval[key] or 0.0) for key in ("value", "low", "high"))
        color = _color(interval)
        if interval["low"] is not None:
            axes.plot([low, high], [place, place], color=color, linewidth=1.6, solid_capstyle="round")
        axes.plot(
            [value], [place], "o", color=color, markersize=4.5, markerfacecolor="white" if color == _OPEN else color
        )
    axes.set_title(FIGURES[figure], fontsize=9, loc="left")
    axes.set_xlabel("points", fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#e3e5e8", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _color(interval: dict[str, float | None]) -> str:
    low, high = interval["low"], interval["high"]
    if low is None or high is None or low <= 0 <= high:
        return _OPEN
    return _GAIN if low > 0 else _LOSS
