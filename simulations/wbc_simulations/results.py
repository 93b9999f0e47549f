"""The table that ends a run in the terminal."""

from pathlib import Path
from typing import Any

from rich.table import Table

_COLUMNS = (
    ("macro-F1", "macro_f1"),
    ("balanced accuracy", "balanced_accuracy"),
    ("accuracy", "accuracy"),
    ("rare-class recall", "rare_recall"),
    ("blast recall", "blast_recall"),
)


def results_table(metrics: dict[str, Any], folder: Path) -> Table:
    """Figures with 95 % intervals, a row for each held-out clinic, their mean, and training clinics' test cells."""
    table = Table(title=f"{metrics['study']['name']} – model of round {metrics['selected_round']}", caption=str(folder))
    table.add_column("clinic")
    table.add_column("cells", justify="right")
    for title, _ in _COLUMNS:
        table.add_column(title, justify="right")
    for place, word in (("held_out", "held out"), ("in_domain", "in domain")):
        for clinic, figures in metrics[place].items():
            _add(table, f"{clinic} ({word})", figures, str(sum(map(sum, figures["confusion"]))))
        if metrics[f"mean_{place}"]:
            _add(table, f"mean {word}", metrics[f"mean_{place}"], "", style="bold")
            table.add_section()
    return table


def _add(table: Table, name: str, figures: dict[str, Any], cells: str, style: str | None = None) -> None:
    table.add_row(name, cells, *(format_interval(figures.get(key)) for _, key in _COLUMNS), style=style)


def format_interval(figure: dict[str, float | None] | None) -> str:
    """ "0.61 [0.55, 0.66]", or a dash where a figure is not defined."""
    if not figure or figure["value"] is None:
        return "–"
    if figure["low"] is None or figure["high"] is None:
        return f"{figure['value']:.2f}"
    return f"{figure['value']:.2f} [{figure['low']:.2f}, {figure['high']:.2f}]"
