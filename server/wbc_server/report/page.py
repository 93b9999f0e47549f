"""The page: inputs, findings, tables and charts poured into one template, written whole or not at all."""

from pathlib import Path
from typing import Any

from wbc_common.files import write_atomically
from wbc_server.report import charts, findings, focus, tables, words
from wbc_server.report.inputs import Metrics, Run, read_run
from wbc_server.selection import name_export


def write_report(run_dir: Path) -> Path:
    """Write `report.html` into a run's folder and return its path; equal inputs give equal bytes.

    Raises:
        DataError: `metrics.json` or `rounds.jsonl` is missing or does not hold what the report needs.
    """
    target = run_dir / "report.html"
    write_atomically(target, render(read_run(run_dir)).encode())
    return target


def render(run: Run) -> str:
    """The report as HTML text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (words.rate, words.fine, words.interval, words.size, words.count, words.duration, words.readable)
    environment.filters.update({function.__name__: function for function in (*filters, words.listed)})
    environment.filters["percent"] = lambda value: f"{100 * value:.2f}%"
    return environment.get_template("template.html.j2").render(**_context(run))


def _context(run: Run) -> dict[str, Any]:
    metrics = run.metrics
    names = focus.shown_clinics(metrics)
    few = focus.only(run, names)
    kinds, sent = tables.egress(few.metrics)
    return {
        "metrics": metrics,
        "study": metrics.study,
        "exported": None if metrics.selected_round is None else name_export(metrics.selected_round, metrics.selection),
        "summary": findings.summary(run),
        "tiles": findings.tiles(run),
        "unseen": findings.unseen(metrics),
        "absences": findings.absences(run),
        "not_shown": focus.note(metrics, names),
        "case_mix": tables.case_mix(few.metrics),
        "training_shares": tables.training_shares(metrics),
        "results": tables.results(few.metrics),
        "blasts": any(one.blast.value is not None for one in tables.results(few.metrics)),
        "egress_kinds": [tables.EGRESS_KINDS.get(kind, (kind, "")) for kind in kinds],
        "egress": sent,
        "held_out_senders": _held_out_senders(metrics),
        "shade_ends": [f"{100 * end:.0f}" for end in tables.SHADE_ENDS],
        "class_views": tables.class_views(metrics, few.metrics),
        **_charts(run, few),
    }


def _charts(run: Run, few: Run) -> dict[str, Any]:
    """Inline SVG by name; safe to mark as markup because matplotlib escapes every text it draws."""
    from markupsafe import Markup

    metrics = run.metrics
    drawn = {
        "learning_chart": charts.learning_chart(run, few),
        "gap_chart": charts.generalisation_chart(few.metrics),
    }
    recall_charts = [
        charts.recall_chart(view.records, metrics.rare_classes, name=f"recall{place}", held_out=bool(metrics.held_out))
        for place, view in enumerate(tables.class_views(metrics, few.metrics))
    ]
    return {
        **{name: Markup(svg) if svg else None for name, svg in drawn.items()},
        "loss_charts": {name: Markup(svg) for name, svg in charts.loss_charts(few).items()},
        "recall_charts": [Markup(svg) for svg in recall_charts],
    }


def _held_out_senders(metrics: Metrics) -> list[str]:
    """Held-out clinics that sent class sums or updates, which none must."""
    held_out = [name for name, clinic in metrics.clinics.items() if clinic.role == "held-out"]
    return sorted(
        name
        for name in held_out
        if any(metrics.egress_bytes.get(name, {}).get(kind, 0) for kind in ("stain-sums", "class-sums", "update"))
    )
