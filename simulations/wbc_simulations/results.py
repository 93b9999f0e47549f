"""The table that ends a run in the terminal; the report has the rest."""

from typing import Any

from rich.table import Table

from wbc_server.selection import name_export

_COLUMNS = (("macro-F1", "macro_f1"), ("rare recall", "rare_recall"), ("accuracy", "accuracy"))


def results_table(metrics: dict[str, Any]) -> Table:
    """Figures with 95 % intervals in 80 columns: held-out clinics and their mean, then training clinics' test cells."""
    title = f"{metrics['study']['name']}: {name_export(metrics['selected_round'], metrics['selection'])}"
    table = Table(title=title, box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("clinic", no_wrap=True, max_width=24)
    table.add_column("cells", justify="right", no_wrap=True)
    for name, _ in _COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for place, heading in (("held_out", "held out, never trained"), ("in_domain", "trained, test cells")):
        if metrics[place]:
            table.add_row(heading, style="dim")
        for clinic, figures in metrics[place].items():
            _add(table, f"  {clinic}", figures, str(sum(map(sum, figures["confusion"]))))
        if metrics[f"mean_{place}"]:
            _add(table, "  mean", metrics[f"mean_{place}"], "", style="bold")
            table.add_section()
    return table


def _add(table: Table, name: str, figures: dict[str, Any], cells: str, style: str | None = None) -> None:
    table.add_row(name, cells, *(format_interval(figures.get(key)) for _, key in _COLUMNS), style=style)


def format_interval(figure: dict[str, float | None] | None) -> str:
    """ "0.61 0.55–0.66": value and 95 % interval, or a dash where a figure is not defined."""
    if not figure or figure["value"] is None:
        return "–"
    if figure["low"] is None or figure["high"] is None:
        return f"{figure['value']:.2f}"
    return f"{figure['value']:.2f} {figure['low']:.2f}–{figure['high']:.2f}"
