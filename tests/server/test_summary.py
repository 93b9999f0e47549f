"""metrics.json: figures are the confusion functions' own, means are over clinics, and what is undefined is null."""

import json
from typing import Any

import numpy as np
import pytest

from wbc_common.confusion import accuracy, balanced_accuracy, macro_f1, percentile_interval, pooled_recall
from wbc_common.study import StudyConfig, parse_study
from wbc_common.wire import Evaluation
from wbc_server.exchange.participation import Roster
from wbc_server.final.summary import egress, summarise

Json = dict[str, Any]
# neutrophil, lymphocyte, monocyte, eosinophil, basophil: eosinophils and basophils are rare (5 and 2 of 1007 cells).
TRAINING = [500.0, 300, 200, 5, 2]


def a_study(registry: str = "wbc5") -> StudyConfig:
    clinics = {"train": ["east"], "held_out": ["north", "west"]}
    loss = {"alignment_weight": 0.0}  # there is one training clinic
    return parse_study({"name": "sum", "rounds": 2, "registry": registry, "clinics": clinics, "loss": loss}, "test")


def a_roster(num_classes: int = 5) -> Roster:
    training = np.array([*TRAINING, *[0.0] * (num_classes - 5)])
    counts = {clinic: np.stack([training, 0 * training, 0 * training]) for clinic in ("east", "north", "west")}
    return Roster({"east": 1, "north": 2, "west": 3}, counts, ("east",), ("north", "west"))


def confusion(*, right: list[int], wrong: tuple[int, int, int] = (0, 0, 0)) -> np.ndarray:
    """Cells right per class, and `wrong` = (true, predicted, cells)."""
    matrix = np.diag(right).astype(np.int64)
    matrix[wrong[0], wrong[1]] += wrong[2]
    return matrix


def evaluation(matrix: np.ndarray, replicates: int = 40) -> Evaluation:
    draws = np.random.default_rng(0).poisson(matrix, size=(replicates, *matrix.shape)).astype(np.int64)
    return Evaluation(matrix, draws, np.array([4, 3]))


WEST = confusion(right=[6, 4, 2, 1, 0], wrong=(4, 3, 1))  # the one basophil is called an eosinophil
NORTH = confusion(right=[5, 5, 0, 0, 0], wrong=(1, 0, 5))  # neutrophils and lymphocytes only


def summary(final: dict[str, Evaluation], records: list[Json] | None = None) -> Json:
    records = records if records is not None else [{"seconds": 1.25, "refused": []}, {"seconds": 2.0, "refused": []}]
    metrics = summarise(a_study(), a_roster(), records, final, 2)
    json.dumps(metrics, allow_nan=False)
    return metrics


def test_a_clinics_figures_are_those_of_its_confusion_matrix() -> None:
    found = evaluation(WEST)
    figures = summary({"west": found})["held_out"]["west"]
    rates = {
        "macro_f1": macro_f1,
        "balanced_accuracy": balanced_accuracy,
        "accuracy": accuracy,
        "rare_recall": lambda counts, observed=None: pooled_recall(counts, (3, 4), observed),
    }
    for name, rate in rates.items():
        draws = rate(found.replicates) if name == "accuracy" else rate(found.replicates, WEST)
        expected = percentile_interval(float(rate(WEST)), draws)
        assert figures[name] == {"value": expected.value, "low": expected.low, "high": expected.high}, name
    assert figures["confusion"] == WEST.tolist()


def test_figures_can_be_checked_by_hand() -> None:
    figures = summary({"west": evaluation(WEST)})["held_out"]["west"]
    # Of 14 cells 13 are right. F1: 1, 1, 1, eosinophil 2/3, basophil 0. Recall 1 but for the basophil.
    assert figures["accuracy"]["value"] == pytest.approx(13 / 14)
    assert figures["macro_f1"]["value"] == pytest.approx((3 + 2 / 3) / 5)
    assert figures["balanced_accuracy"]["value"] == pytest.approx(4 / 5)
    assert figures["rare_recall"]["value"] == pytest.approx(1 / 2)
    assert (figures["worst_recall"], figures["classes_present"]) == (0.0, 5)
    assert (figures["coarse_cells"], figures["coarse_right"]) == (4, 3)
    eosinophil, basophil = figures["per_class"][3:]
    assert (eosinophil["support"], eosinophil["precision"], eosinophil["f1"]) == (1, 0.5, pytest.approx(2 / 3))
    assert (basophil["recall"]["value"], basophil["precision"], basophil["f1"]) == (0.0, None, 0.0)


def test_the_interval_of_mean_rare_recall_rests_on_every_draw() -> None:
    """Two clinics with one rare cell each, drawn or not: a draw counts though one of them has none in it."""
    right, wrong = confusion(right=[9, 0, 0, 1, 0]), confusion(right=[9, 0, 0, 0, 0], wrong=(4, 0, 1))
    none = confusion(right=[9, 0, 0, 0, 0])
    twice = confusion(right=[8, 0, 0, 0, 0], wrong=(4, 0, 2))
    mixed = confusion(right=[8, 0, 0, 1, 0], wrong=(3, 0, 1))  # half of its two rare cells are right
    coarse = np.zeros(2, dtype=np.int64)
    west = Evaluation(right, np.stack([none, mixed, none, right]), coarse)
    north = Evaluation(wrong, np.stack([none, none, twice, none]), coarse)
    mean = summary({"west": west, "north": north})["mean_held_out"]["rare_recall"]
    low, high = np.percentile([0.5, 0.25, 0.5, 0.5], [2.5, 97.5])  # west: 1, ½, 1, 1; north: 0 throughout
    assert mean == {"value": 0.5, "low": pytest.approx(low), "high": pytest.approx(high)}


def test_means_are_over_clinics_not_over_cells() -> None:
    metrics = summary({"west": evaluation(WEST), "north": evaluation(NORTH)})
    assert metrics["mean_held_out"]["accuracy"]["value"] == pytest.approx((13 / 14 + 10 / 15) / 2)
    draws = np.mean([macro_f1(evaluation(counts).replicates, counts) for counts in (WEST, NORTH)], axis=0)
    low, high = np.percentile(draws, [2.5, 97.5])
    mean = metrics["mean_held_out"]["macro_f1"]
    assert (mean["low"], mean["high"]) == (pytest.approx(low), pytest.approx(high))


def test_a_figure_that_is_not_defined_is_null_and_stays_out_of_the_mean() -> None:
    metrics = summary({"west": evaluation(WEST), "north": evaluation(NORTH)})
    north = metrics["held_out"]["north"]
    assert north["rare_recall"] is None
    assert metrics["mean_held_out"]["rare_recall"]["value"] == pytest.approx(1 / 2)
    assert north["per_class"][4]["recall"] == {"value": None, "low": None, "high": None}
    assert north["per_class"][4]["f1"] is None
    assert north["classes_present"] == 2


def test_a_registry_without_blasts_has_no_blast_recall() -> None:
    metrics = summary({"west": evaluation(WEST)})
    assert metrics["held_out"]["west"]["blast_recall"] is None
    assert metrics["mean_held_out"]["blast_recall"] is None


def test_blast_recall_is_the_recall_of_myeloblasts() -> None:
    study = a_study("wbc13")
    blast = study.classes.index("myeloblast")
    matrix = np.zeros((13, 13), dtype=np.int64)
    matrix[blast, blast], matrix[blast, 0] = 3, 1
    metrics = summarise(study, a_roster(13), [], {"west": evaluation(matrix)}, 1)
    assert metrics["held_out"]["west"]["blast_recall"]["value"] == pytest.approx(3 / 4)


def test_without_bootstrap_draws_figures_stand_without_an_interval() -> None:
    metrics = summary({"west": evaluation(WEST, replicates=0), "north": evaluation(NORTH, replicates=0)})
    for figures in (metrics["held_out"]["west"], metrics["mean_held_out"]):
        assert figures["accuracy"]["value"] > 0.5
        assert (figures["accuracy"]["low"], figures["accuracy"]["high"]) == (None, None)


def test_a_clinic_without_a_single_cell_has_no_figures_and_no_zeros() -> None:
    figures = summary({"west": evaluation(np.zeros((5, 5), dtype=np.int64))})["held_out"]["west"]
    names = ("macro_f1", "balanced_accuracy", "accuracy", "rare_recall", "worst_recall")
    assert [figures[name] for name in names] == [None] * 5


def test_training_clinics_are_measured_apart_from_held_out_ones() -> None:
    metrics = summary({"east": evaluation(NORTH), "west": evaluation(WEST)})
    assert (list(metrics["in_domain"]), list(metrics["held_out"])) == (["east"], ["west"])
    assert metrics["mean_in_domain"]["accuracy"]["value"] == pytest.approx(10 / 15)
    assert summary({"west": evaluation(WEST)})["mean_in_domain"] is None


def test_what_was_run_and_who_took_part_is_written_down() -> None:
    refusal = {"round": 1, "clinic": "east", "stage": "update", "kind": "refused", "reason": "too long"}
    metrics = summary({}, [{"seconds": 1.25, "refused": [refusal]}, {"seconds": 2.0, "refused": []}])
    assert (metrics["rounds_done"], metrics["selected_round"], metrics["seconds"]) == (2, 2, 3.2)
    assert metrics["refused"] == [refusal]
    assert metrics["rare_classes"] == ["eosinophil", "basophil"]
    assert metrics["study"]["hash"] == a_study().hash
    assert {clinic: entry["role"] for clinic, entry in metrics["clinics"].items()} == {
        "east": "train",
        "north": "held-out",
        "west": "held-out",
    }
    assert metrics["clinics"]["east"]["class_counts"]["train"] == TRAINING


def test_bytes_add_over_the_roll_the_rounds_and_the_final_measurement() -> None:
    records: list[Json] = [
        {"egress": {"east": {"update": 100, "evaluation": 5}, "west": {"evaluation": 7}}},
        {"egress": {"east": {"update": 100}, "west": {}}},
    ]
    total = egress(records, {"east": 1, "west": 2}, {"west": 30})
    assert total == {
        "east": {"describe": 1, "update": 200, "evaluation": 5},
        "west": {"describe": 2, "evaluation": 37},
    }
