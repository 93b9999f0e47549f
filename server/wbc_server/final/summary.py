"""From counts to the figures of a finished study: metrics.json.

Input are the final evaluations of the selected model: confusion counts and their bootstrap draws per clinic.
Intervals of one clinic come from its own draws; intervals of a mean over clinics from the mean of the clinics' draws,
which are independent. Figures that are not defined (no cell of a class) are null, never 0.
"""

import json
import math
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wbc_common.cells import BLASTS, Registry
from wbc_common.confusion import (
    Interval,
    accuracy,
    balanced_accuracy,
    f1,
    macro_f1,
    percentile_interval,
    pooled_recall,
    rare_classes,
    recall,
    support,
    wilson_interval,
)
from wbc_common.study import StudyConfig
from wbc_common.wire import Evaluation
from wbc_server.exchange.participation import Roster

# A figure of confusion counts [..., C, C]; of bootstrap draws where the observed counts [C, C] are given too.
Rate = Callable[[NDArray[np.int64], NDArray[np.int64] | None], NDArray[np.float64]]
_PACKAGES = ("wbc-fl", "torch", "torchvision", "flwr", "numpy", "scikit-learn")


def summarise(
    study: StudyConfig,
    roster: Roster,
    records: Sequence[Mapping[str, Any]],
    final: Mapping[str, Evaluation],
    selected_round: int,
) -> dict[str, Any]:
    """The content of metrics.json.

    Args:
        records: the journal.
        final: clinic → evaluation of the selected model: test cells of training clinics, all cells of held-out ones.
    """
    rare = rare_classes(roster.training_counts().sum(axis=0))
    rates = _rates(study.classes, rare)
    held_out = {clinic: final[clinic] for clinic in roster.held_out if clinic in final}
    in_domain = {clinic: final[clinic] for clinic in roster.train if clinic in final}
    return {
        "study": describe_study(study),
        "versions": {**{name: version(name) for name in _PACKAGES}, "python": platform.python_version()},
        "seconds": round(sum(record["seconds"] for record in records), 1),
        "rounds_done": len(records),
        "selected_round": selected_round,
        "selection": study.evaluation.selection,
        "clinics": {clinic: _clinic(study, roster, clinic) for clinic in roster.nodes},
        "rare_classes": [study.classes.classes[index] for index in rare],
        "held_out_planned": list(study.clinics.held_out),
        "held_out": {clinic: _figures(study, evaluation, rates) for clinic, evaluation in held_out.items()},
        "mean_held_out": _means(held_out, rates),
        "in_domain": {clinic: _figures(study, evaluation, rates) for clinic, evaluation in in_domain.items()},
        "mean_in_domain": _means(in_domain, rates),
        "refused": [refusal for record in records for refusal in record["refused"]],
    }


def describe_study(study: StudyConfig) -> dict[str, Any]:
    """What was run, for the report."""
    return {
        "name": study.name,
        "hash": study.hash,
        "seed": study.seed,
        "registry": study.registry,
        "classes": list(study.classes.classes),
        "rounds": study.rounds,
        "method": {
            **study.loss.model_dump(mode="json"),
            "aggregation": study.aggregation.rule,
            **_named_apart(study.aggregation.model_dump(mode="json", exclude={"rule"})),
            **study.model.model_dump(mode="json"),
            **study.training.model_dump(mode="json"),
            "image_size_px": study.images.size_px,
            "white_balance": study.images.white_balance,
            "nuclear_stain": study.images.nuclear_stain,
            "prediction_prior": json.dumps(study.evaluation.prediction_prior).strip('"'),
            "prediction_tau": study.evaluation.prediction_tau,
            "stain_draws": study.evaluation.stain_draws,
            "together": study.evaluation.together,
            "privacy": study.privacy.mode,
        },
    }


def _named_apart(aggregation: Mapping[str, Any]) -> dict[str, Any]:
    """The server's settings, with those that training has too (its optimiser) called the server's."""
    shared = ("optimizer", "momentum", "second_momentum", "adaptivity")
    return {f"server_{name}" if name in shared else name: value for name, value in aggregation.items()}


def _rates(registry: Registry, rare: tuple[int, ...]) -> dict[str, Rate]:
    blasts = tuple(registry.index(name) for name in BLASTS if name in registry.classes)
    return {
        "macro_f1": macro_f1,
        "balanced_accuracy": balanced_accuracy,
        "accuracy": lambda confusion, observed: accuracy(confusion),
        "rare_recall": lambda confusion, observed: pooled_recall(confusion, rare, observed),
        "blast_recall": lambda confusion, observed: pooled_recall(confusion, blasts, observed),
    }


def _clinic(study: StudyConfig, roster: Roster, clinic: str) -> dict[str, Any]:
    counts = dict(zip(("train", "val", "test"), roster.class_counts[clinic].tolist(), strict=True))
    return {"role": study.role(clinic), "class_counts": counts}


def _figures(study: StudyConfig, evaluation: Evaluation, rates: Mapping[str, Rate]) -> dict[str, Any]:
    confusion = evaluation.confusion
    recalls = recall(confusion)
    return {
        "confusion": confusion.tolist(),
        **{name: _interval(rate, evaluation) for name, rate in rates.items()},
        "worst_recall": _finite(float(np.nanmin(recalls))) if np.isfinite(recalls).any() else None,
        "classes_present": int((support(confusion) > 0).sum()),
        "coarse_cells": int(evaluation.coarse[0]),
        "coarse_right": int(evaluation.coarse[1]),
        "personal": _personal(evaluation),
        "per_class": [_class_figures(name, confusion, row) for row, name in enumerate(study.classes.classes)],
    }


def _personal(evaluation: Evaluation) -> dict[str, Any] | None:
    """The clinic's personal head on the same cells, beside the global one; None where it has none."""
    if evaluation.personal is None:
        return None
    rates = {"macro_f1": macro_f1, "balanced_accuracy": balanced_accuracy, "accuracy": accuracy}
    figures = {name: _finite(float(rate(evaluation.personal))) for name, rate in rates.items()}
    return {"confusion": evaluation.personal.tolist(), **figures}


def _class_figures(name: str, confusion: NDArray[np.int64], row: int) -> dict[str, Any]:
    right, cells, predicted = int(confusion[row, row]), int(confusion[row].sum()), int(confusion[:, row].sum())
    return {
        "class": name,
        "support": cells,
        "recall": _as_json(wilson_interval(right, cells)),
        "precision": right / predicted if predicted else None,
        "f1": _finite(float(f1(confusion)[row])),
    }


def _interval(rate: Rate, evaluation: Evaluation) -> dict[str, float | None] | None:
    value = float(rate(evaluation.confusion, None))
    if not math.isfinite(value):
        return None
    return _as_json(percentile_interval(value, rate(evaluation.replicates, evaluation.confusion)))


def _means(evaluations: Mapping[str, Evaluation], rates: Mapping[str, Rate]) -> dict[str, Any] | None:
    """Mean of each figure over the clinics where it is defined, with the interval of the draws' means."""
    if not evaluations:
        return None
    return {name: _mean(rate, list(evaluations.values())) for name, rate in rates.items()}


def _mean(rate: Rate, evaluations: list[Evaluation]) -> dict[str, float | None] | None:
    defined = [evaluation for evaluation in evaluations if math.isfinite(float(rate(evaluation.confusion, None)))]
    if not defined:
        return None
    value = float(np.mean([rate(evaluation.confusion, None) for evaluation in defined]))
    draws = np.mean([rate(evaluation.replicates, evaluation.confusion) for evaluation in defined], axis=0)
    return _as_json(percentile_interval(value, draws))


def egress(
    records: Sequence[Mapping[str, Any]],
    described: Mapping[str, int],
    final: Mapping[str, int],
    stain: Mapping[str, int] | None = None,
) -> dict[str, dict[str, int]]:
    """Bytes that arrived from each clinic by kind: the roll, stain sums, every round, and the final evaluation."""
    total: dict[str, dict[str, int]] = {clinic: {"describe": size} for clinic, size in described.items()}
    rounds = [(clinic, sizes) for record in records for clinic, sizes in record["egress"].items()]
    last = [(clinic, {"evaluation": size}) for clinic, size in final.items()]
    pooled = [(clinic, {"stain-sums": size}) for clinic, size in (stain or {}).items()]
    for clinic, sizes in [*pooled, *rounds, *last]:
        sums = total.setdefault(clinic, {})
        for kind, size in sizes.items():
            sums[kind] = sums.get(kind, 0) + size
    return total


def _as_json(interval: Interval) -> dict[str, float | None]:
    return {name: _finite(value) for name, value in asdict(interval).items()}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
