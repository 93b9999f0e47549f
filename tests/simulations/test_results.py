"""The closing table: what it says, and that it fits a terminal of 80 columns."""

import io
from typing import Any

import pytest
from rich.console import Console

from wbc_server.run_folder import RunFolder
from wbc_simulations.results import format_interval, results_table


def figure(value: float | None, low: float | None = None, high: float | None = None) -> dict[str, float | None]:
    return {"value": value, "low": low, "high": high}


def printed(metrics: dict[str, Any], width: int = 80) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width).print(results_table(metrics))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        (figure(0.614, 0.551, 0.657), "0.61 0.55–0.66"),
        (figure(0.614), "0.61"),
        (figure(0.0, 0.0, 0.0), "0.00 0.00–0.00"),
        (figure(None), "–"),
        (None, "–"),
    ],
)
def test_a_figure_shows_its_interval_if_it_has_one_and_a_dash_if_it_is_not_defined(
    interval: dict[str, float | None] | None, text: str
) -> None:
    assert format_interval(interval) == text


def some_metrics(**changes: Any) -> dict[str, Any]:
    figures = {"macro_f1": figure(0.5, 0.4, 0.6), "rare_recall": None, "accuracy": figure(0.75, 0.7, 0.8)}
    clinic = {**figures, "confusion": [[3, 1], [0, 8]]}
    metrics = {
        "study": {"name": "mine"},
        "selected_round": 7,
        "selection": "last",
        "held_out": {"university-hospital-of-a-long-name": clinic},
        "mean_held_out": figures,
        "in_domain": {"east": clinic},
        "mean_in_domain": figures,
    }
    return {**metrics, **changes}


def test_held_out_clinics_come_before_training_ones_with_cells_and_figures() -> None:
    text = printed(some_metrics())
    assert "mine: model of round 7" in text
    assert text.index("never trained") < text.index("university") < text.index("trained, test cells")
    (east,) = [line for line in text.splitlines() if line.strip().startswith("east")]
    assert east.split() == ["east", "12", "0.50", "0.40–0.60", "–", "0.75", "0.70–0.80"]


def test_it_fits_80_columns_with_the_longest_names() -> None:
    assert max(len(line.rstrip()) for line in printed(some_metrics(), width=200).splitlines()) <= 80


def test_a_study_without_held_out_clinics_has_its_table_too() -> None:
    text = printed(some_metrics(held_out={}, mean_held_out=None))
    assert "never trained" not in text
    assert "east" in text


def test_a_real_runs_metrics_make_a_table(finished_run: RunFolder) -> None:
    text = printed(finished_run.read_metrics())
    assert "west" in text
    assert "east" in text
