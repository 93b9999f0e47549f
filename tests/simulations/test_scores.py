"""Figures of one finished run, and the Markdown table of a comparison."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wbc_common.confusion import accuracy, macro_f1
from wbc_common.wire import Evaluation
from wbc_server.draws import write_draws
from wbc_server.run_folder import RunFolder
from wbc_simulations.scores import FIGURES, cell_scores, paired_table

# neutrophil, lymphocyte, monocyte, eosinophil, basophil
WEST = np.diag([6, 4, 2, 1, 0])
WEST[4, 3] = 1  # the one basophil is called an eosinophil
NORTH = np.diag([5, 5, 0, 0, 0])
NORTH[1, 0] = 5


def a_run(folder: Path, rare: tuple[str, ...] = ("eosinophil", "basophil"), draws: int = 3) -> RunFolder:
    """A finished run with two held-out clinics; draw number r holds r+1 times the cells."""
    run = RunFolder(folder)
    held_out = {"west": WEST, "north": NORTH}
    metrics = {
        "study": {"registry": "wbc5"},
        "rare_classes": list(rare),
        "held_out": {clinic: {"confusion": counts.tolist()} for clinic, counts in held_out.items()},
    }
    run.metrics.write_text(json.dumps(metrics))
    scaled = {clinic: np.array([(r + 1) * counts for r in range(draws)]) for clinic, counts in held_out.items()}
    nothing = np.zeros(2, dtype=np.int64)
    evaluations = {
        clinic: Evaluation(held_out[clinic], values.reshape(-1, 5, 5), nothing) for clinic, values in scaled.items()
    }
    trained = {"east": Evaluation(WEST, np.zeros((draws, 5, 5), dtype=np.int64), nothing)}
    write_draws(run, {**evaluations, **trained})
    return run


def test_figures_are_means_over_held_out_clinics_only(tmp_path: Path) -> None:
    scores = cell_scores(a_run(tmp_path))
    assert set(scores.values) == set(FIGURES) == set(scores.replicates)
    assert scores.values["accuracy"] == pytest.approx((13 / 14 + 10 / 15) / 2)
    assert scores.values["macro_f1"] == pytest.approx((float(macro_f1(WEST)) + float(macro_f1(NORTH))) / 2)
    # Draws hold the same shares of right cells here, so each gives the same figure.
    assert scores.replicates["accuracy"] == pytest.approx(np.full(3, (accuracy(WEST) + accuracy(NORTH)) / 2))


def test_a_clinic_without_rare_cells_leaves_rare_recall_to_the_other(tmp_path: Path) -> None:
    scores = cell_scores(a_run(tmp_path))
    assert scores.values["rare_recall"] == pytest.approx(1 / 2)
    assert scores.replicates["rare_recall"] == pytest.approx(np.full(3, 1 / 2))


def test_without_a_rare_class_its_recall_is_not_a_number_and_nobody_is_warned(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = cell_scores(a_run(tmp_path, rare=()))
    assert np.isnan(scores.values["rare_recall"])
    assert np.isnan(scores.replicates["rare_recall"]).all()


def test_without_draws_there_are_figures_and_no_replicates(tmp_path: Path) -> None:
    scores = cell_scores(a_run(tmp_path, draws=0))
    assert scores.values["accuracy"] == pytest.approx((13 / 14 + 10 / 15) / 2)
    assert scores.replicates["accuracy"].shape == (0,)


def interval(value: float | None, low: float | None = None, high: float | None = None) -> dict[str, float | None]:
    return {"value": value, "low": low, "high": high}


def a_comparison(**macro: dict[str, Any]) -> dict[str, Any]:
    plain, full = interval(0.5, 0.4, 0.6), interval(0.625, 0.5, 0.75)
    figures = {name: {"mean": full, "difference": interval(0.125, -0.025, 0.25)} for name in FIGURES}
    baseline = {name: {"mean": plain, "difference": interval(0.0, 0.0, 0.0)} for name in FIGURES}
    by_fold = {"macro_f1": {"west": full, "east": plain}}
    return {
        "folds": ["west", "east"],
        "methods": {
            "FedAvg": {"baseline": "FedAvg", "figures": {**baseline, **macro}, "by_fold": by_fold},
            "full": {"baseline": "FedAvg", "figures": {**figures, **macro}, "by_fold": by_fold},
        },
    }


def test_the_table_shows_points_with_intervals_and_signed_differences() -> None:
    lines = paired_table(a_comparison()).splitlines()
    assert lines[0].startswith("| method | OOD macro-F1 | Δ | rare-class recall | Δ |")
    assert lines[2] == "| FedAvg " + "| 50.0 [40.0, 60.0] | – " * 4 + "| – |"
    assert lines[3] == "| full " + "| 62.5 [50.0, 75.0] | +12.5 [-2.5, +25.0] " * 4 + "| FedAvg |"
    assert lines[5:] == [
        "| OOD macro-F1 on | west | east |",
        "| --- | ---: | ---: |",
        "| FedAvg | 62.5 [50.0, 75.0] | 50.0 [40.0, 60.0] |",
        "| full | 62.5 [50.0, 75.0] | 50.0 [40.0, 60.0] |",
    ]
    assert len({line.count("|") for line in lines[:4]}) == 1


def test_what_is_not_defined_is_a_dash_and_what_has_no_interval_stands_alone() -> None:
    undefined = {"mean": interval(None), "difference": interval(None)}
    alone = {"mean": interval(0.5), "difference": interval(0.125)}
    row = paired_table(a_comparison(rare_recall=undefined, accuracy=alone)).splitlines()[3]
    assert "| – | – | 62.5" in row
    assert row.endswith("| 50.0 | +12.5 | FedAvg |")
    assert "nan" not in row
