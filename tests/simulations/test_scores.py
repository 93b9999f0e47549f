"""Figures of one finished run, and the Markdown table of a comparison."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wbc_common.cells import registry
from wbc_common.confusion import accuracy, macro_f1
from wbc_common.wire import Evaluation
from wbc_server.final.draws import write_draws
from wbc_server.run_folder import RunFolder
from wbc_simulations.scores import FIGURES, cell_scores, paired_table

# neutrophil, lymphocyte, monocyte, eosinophil, basophil
WEST = np.diag([6, 4, 2, 1, 0])
WEST[4, 3] = 1  # the one basophil is called an eosinophil
NORTH = np.diag([5, 5, 0, 0, 0])
NORTH[1, 0] = 5


def a_run(
    folder: Path,
    rare: tuple[str, ...] = ("eosinophil", "basophil"),
    draws: int = 3,
    *,
    held_out: dict[str, np.ndarray] | None = None,
    classes: str = "wbc5",
) -> RunFolder:
    """A finished run with two held-out clinics; draw number r holds r+1 times the cells."""
    run = RunFolder(folder)
    held_out = held_out or {"west": WEST, "north": NORTH}
    metrics = {
        "study": {"registry": classes},
        "rare_classes": list(rare),
        "held_out": {clinic: {"confusion": counts.tolist()} for clinic, counts in held_out.items()},
    }
    run.metrics.write_text(json.dumps(metrics))
    nothing = np.zeros(2, dtype=np.int64)
    evaluations = {
        clinic: Evaluation(
            counts, np.array([(r + 1) * counts for r in range(draws)]).reshape(-1, *counts.shape), nothing
        )
        for clinic, counts in held_out.items()
    }
    size = len(registry(classes))
    trained = {
        "east": Evaluation(
            np.zeros((size, size), dtype=np.int64), np.zeros((draws, size, size), dtype=np.int64), nothing
        )
    }
    write_draws(run, {**evaluations, **trained})
    return run


def test_each_held_out_clinic_has_its_own_figures(tmp_path: Path) -> None:
    found = cell_scores(a_run(tmp_path), ["west", "north"])
    assert list(found) == ["west", "north"]
    for clinic, counts in (("west", WEST), ("north", NORTH)):
        scores = found[clinic]
        assert set(scores.values) == set(FIGURES) == set(scores.replicates)
        assert scores.values["accuracy"] == pytest.approx(float(accuracy(counts)))
        assert scores.values["macro_f1"] == pytest.approx(float(macro_f1(counts)))
        # Draws hold the same shares of right cells here, so each gives the same figure.
        assert scores.replicates["accuracy"] == pytest.approx(np.full(3, accuracy(counts)))


def test_a_clinic_that_several_models_measured_gets_the_mean_of_their_figures(tmp_path: Path) -> None:
    run = a_run(tmp_path, held_out={"lab-by-west": WEST, "lab-by-north": NORTH, "laboratory": WEST})
    scores = cell_scores(run, ["lab"])["lab"]
    assert scores.values["accuracy"] == pytest.approx((13 / 14 + 10 / 15) / 2)
    assert scores.replicates["accuracy"] == pytest.approx(np.full(3, (13 / 14 + 10 / 15) / 2))


def test_a_clinic_without_rare_cells_has_no_rare_recall(tmp_path: Path) -> None:
    found = cell_scores(a_run(tmp_path), ["west", "north"])
    assert found["west"].values["rare_recall"] == pytest.approx(1 / 2)
    assert found["west"].replicates["rare_recall"] == pytest.approx(np.full(3, 1 / 2))
    assert np.isnan(found["north"].values["rare_recall"])


def test_a_draw_without_a_rare_cell_keeps_the_clinics_rare_recall(tmp_path: Path) -> None:
    run = a_run(tmp_path, draws=2)
    without = np.diag([7, 4, 2, 0, 0])
    nothing = np.zeros(2, dtype=np.int64)
    write_draws(run, {"west": Evaluation(WEST, np.array([WEST, without]), nothing)})
    assert cell_scores(run, ["west"])["west"].replicates["rare_recall"].tolist() == [0.5, 0.5]


def test_without_a_rare_class_its_recall_is_not_a_number_and_nobody_is_warned(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = cell_scores(a_run(tmp_path, rare=()), ["west"])["west"]
    assert np.isnan(scores.values["rare_recall"])
    assert np.isnan(scores.replicates["rare_recall"]).all()


def test_blasts_have_a_recall_of_their_own_where_the_classes_know_them(tmp_path: Path) -> None:
    classes = registry("wbc13")
    blast, lymphocyte = classes.index("myeloblast"), classes.index("typical_lymphocyte")
    counts = np.zeros((13, 13), dtype=np.int64)
    counts[blast, [blast, lymphocyte]] = [3, 1]
    counts[lymphocyte, lymphocyte] = 9
    run = a_run(tmp_path, rare=(), held_out={"west": counts}, classes="wbc13")
    assert cell_scores(run, ["west"])["west"].values["blast_recall"] == pytest.approx(3 / 4)


def test_without_draws_there_are_figures_and_no_replicates(tmp_path: Path) -> None:
    scores = cell_scores(a_run(tmp_path, draws=0), ["west"])["west"]
    assert scores.values["accuracy"] == pytest.approx(13 / 14)
    assert scores.replicates["accuracy"].shape == (0,)


def interval(value: float | None, low: float | None = None, high: float | None = None) -> dict[str, float | None]:
    return {"value": value, "low": low, "high": high}


def a_comparison(**macro: dict[str, Any]) -> dict[str, Any]:
    plain, full = interval(0.5, 0.4, 0.6), interval(0.625, 0.5, 0.75)
    figures = {name: {"mean": full, "difference": interval(0.125, -0.025, 0.25)} for name in FIGURES}
    baseline = {name: {"mean": plain, "difference": interval(0.0, 0.0, 0.0)} for name in FIGURES}
    by_fold = {"macro_f1": {"west": full, "east": plain}}
    return {
        "hold_out": "each",
        "folds": ["west", "east"],
        "methods": {
            "FedAvg": {"baseline": "FedAvg", "figures": {**baseline, **macro}, "by_fold": by_fold},
            "full": {"baseline": "FedAvg", "figures": {**figures, **macro}, "by_fold": by_fold},
        },
    }


def test_the_table_shows_points_with_intervals_and_signed_differences() -> None:
    lines = paired_table(a_comparison()).splitlines()
    assert lines[0].startswith("| method | OOD macro-F1 | Δ | rare-class recall | Δ |")
    shown = len(FIGURES) - 1  # no clinic has a class of few cells
    assert lines[2] == "| FedAvg " + "| 50.0 [40.0, 60.0] | – " * shown + "| – |"
    assert lines[3] == "| full " + "| 62.5 [50.0, 75.0] | +12.5 [-2.5, +25.0] " * shown + "| FedAvg |"
    assert lines[5:] == [
        "| OOD macro-F1 on | west | east |",
        "| --- | ---: | ---: |",
        "| FedAvg | 62.5 [50.0, 75.0] | 50.0 [40.0, 60.0] |",
        "| full | 62.5 [50.0, 75.0] | 50.0 [40.0, 60.0] |",
    ]
    assert len({line.count("|") for line in lines[:4]}) == 1


def test_what_is_not_defined_is_a_dash_and_what_has_no_interval_stands_alone() -> None:
    undefined = {"mean": interval(None), "difference": interval(None)}
    comparison = a_comparison(accuracy={"mean": interval(0.5), "difference": interval(0.125)})
    comparison["methods"]["full"]["figures"]["rare_recall"] = undefined
    row = paired_table(comparison).splitlines()[3]
    assert "| – | – | 62.5" in row
    assert row.endswith("| 50.0 | +12.5 | FedAvg |")
    assert "nan" not in row


def test_a_figure_that_no_method_has_is_left_out_of_the_table() -> None:
    undefined = {"mean": interval(None), "difference": interval(None)}
    assert "blast recall" in paired_table(a_comparison())
    assert "blast recall" not in paired_table(a_comparison(blast_recall=undefined))


def test_macro_f1_without_classes_of_few_cells_is_shown_where_it_differs() -> None:
    few = FIGURES["macro_f1_less_few"]
    assert few not in paired_table(a_comparison())
    other = {"mean": interval(0.75), "difference": interval(0.25)}
    assert paired_table(a_comparison(macro_f1_less_few=other)).startswith(f"| method | OOD macro-F1 | Δ | {few} | Δ |")


def test_a_class_of_few_cells_is_left_out_of_the_one_macro_f1(tmp_path: Path) -> None:
    counts = np.diag([8, 6, 0, 0, 0])
    counts[0, 4], counts[4, 0] = 2, 4  # four cells of the last class, all missed
    values = cell_scores(a_run(tmp_path, held_out={"west": counts}), ["west"])["west"].values
    first = 2 * 8 / (2 * 8 + 2 + 4)
    assert values["macro_f1"] == pytest.approx((first + 1 + 0) / 3)
    assert values["macro_f1_less_few"] == pytest.approx((first + 1) / 2)
