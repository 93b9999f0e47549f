"""Matplotlib's SVG made fit for the page: text stays text, colours become the page's own, bytes repeat.

A chart is drawn once in placeholder colours; each is replaced by a CSS variable, so one drawing serves light, dark and
print. Ids are prefixed by the chart's name because every chart is inlined into the same document. Drawing goes through
Figure and FigureCanvasSVG: pyplot would choose a backend and keep global state.
"""

import importlib
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, SOFT, RULE, PAPER = "#010101", "#020202", "#030303", "#040404"
TRAINING, HELD_OUT = "#050505", "#060606"
_VARIABLES = {
    INK: "var(--ink)",
    SOFT: "var(--soft)",
    RULE: "var(--rule)",
    PAPER: "var(--paper)",
    TRAINING: "var(--azure)",
    HELD_OUT: "var(--eosin)",
}
# Any: the keys' type differs between the versions of matplotlib that this package allows.
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "wbc-fl",
    "text.parse_math": False,
    "font.size": 12.5,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "lines.solid_capstyle": "round",
}


def load_drawing() -> None:
    """Import what drawing takes, half a second's work, ahead of its use; nothing else, so that any thread may."""
    importlib.import_module("matplotlib.backends.backend_svg")
    importlib.import_module("matplotlib.figure")


@contextmanager
def drawing() -> Iterator[None]:
    """Draw with our settings, whatever matplotlibrc this machine has."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def new_figure(width_px: float, height_px: float, *, fit_labels: bool = True) -> "Figure":
    """An empty figure of that size in CSS pixels; font sizes are CSS pixels too.

    Args:
        fit_labels: let the margins follow the labels; otherwise they are fixed, so that small charts line up.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_px / 72, height_px / 72), layout="constrained" if fit_labels else None)
    if not fit_labels:
        figure.subplots_adjust(left=0.14, right=0.98, bottom=0.2, top=0.95)
    figure.patch.set_visible(False)
    FigureCanvasSVG(figure)
    return figure


def to_svg(figure: "Figure", name: str) -> str:
    """The figure as an inline `<svg>` whose ids start with `name`."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = _with_own_size(_with_own_ids(text, name))
    for placeholder, variable in _VARIABLES.items():
        text = text.replace(placeholder, variable)
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font: \1 var(--sans)", text)
    return re.sub(r"\n\s*", "\n", re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)).strip()


def _with_own_ids(text: str, name: str) -> str:
    """Only ids that something points at, each with the chart's name before it."""
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    text = re.sub(r' id="([^"]+)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", text)
    return re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", text)


def _with_own_size(text: str) -> str:
    """Sizes in CSS pixels; the surrounding figure carries the description."""
    found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)
    assert found is not None, "matplotlib writes a viewBox"
    width, height = found.groups()
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" aria-hidden="true" '
        f'viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
    )
    return re.sub(r"<svg[^>]*>", opening, text, count=1)
