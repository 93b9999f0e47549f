"""How figures are written: one place for digits, units, plurals and lists, so that the page speaks with one voice."""

import math
from collections.abc import Iterable, Sequence

from wbc_server.report.figures import Figure

NONE = "–"
_BYTE_UNITS = ("B", "kB", "MB", "GB", "TB")
_SPELLED = ["No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten", "Eleven", "Twelve"]


def rate(value: float | None) -> str:
    """0.523 → "0.52"; a dash where it is not defined."""
    return NONE if value is None or not math.isfinite(value) else f"{value:.2f}"


def fine(value: float | None) -> str:
    """Three digits, for errors that are small: 0.0432 → "0.043"."""
    return NONE if value is None or not math.isfinite(value) else f"{value:.3f}"


def interval(figure: Figure) -> str:
    """The interval alone, "0.46 to 0.58"; empty where there is none."""
    if figure.value is None or figure.low is None or figure.high is None:
        return ""
    return f"{figure.low:.2f} to {figure.high:.2f}"


def count(value: float) -> str:
    """Thousands with commas; a fraction of a cell (a label that allows several classes) keeps one digit."""
    return f"{value:,.0f}" if abs(value - round(value)) < 0.05 or value >= 100 else f"{value:,.1f}"


def counted(value: float, singular: str, plural: str = "") -> str:
    """1 → "1 cell"; 1200 → "1,200 cells"."""
    return f"{count(value)} {singular if value == 1 else plural or singular + 's'}"


def spelled(number: int) -> str:
    """A number that opens a sentence: 3 → "Three"; digits from thirteen on."""
    return _SPELLED[number] if number < len(_SPELLED) else count(number)


def share(part: float, whole: float) -> str:
    """A part of a whole in per cent."""
    if whole <= 0:
        return NONE
    percent = 100 * part / whole
    return f"{percent:.0f} %" if percent >= 9.95 or percent == 0 else f"{percent:.1f} %"


def size(num_bytes: int) -> str:
    """Bytes in decimal units, three digits at most: 12000000 → "12.0 MB"."""
    value = float(num_bytes)
    for unit in _BYTE_UNITS:
        if value < 999.5 or unit == _BYTE_UNITS[-1]:
            break
        value /= 1000
    if unit == "B" or value >= 99.95:
        return f"{value:,.0f} {unit}"
    return f"{value:.1f} {unit}"


def duration(seconds: float | None) -> str:
    """Seconds as a person says them."""
    if seconds is None:
        return NONE
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def listed(names: Sequence[str], limit: int = 6) -> str:
    """a, b and c; a long list is cut and says by how much."""
    if len(names) > limit:
        return f"{', '.join(names[:limit])} and {len(names) - limit} more"
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def ranges(numbers: Iterable[int]) -> str:
    """3, 5, 6, 7 → "3, 5–7"."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)


def readable(cell_class: str) -> str:
    """band_neutrophil → "band neutrophil"."""
    return cell_class.replace("_", " ")


def short(name: str, limit: int = 20) -> str:
    """A name cut to fit a chart's label; tables carry it whole."""
    return name if len(name) <= limit else f"{name[: limit - 1]}…"
