"""What a finished study leaves for its report, drawn: metrics and the record of each round."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from wbc_common.cells import CLASSES_5, CLASSES_13
from wbc_common.confusion import (
    accuracy,
    balanced_accuracy,
    f1,
    macro_f1,
    pooled_recall,
    rare_classes,
    recall,
    support,
    wilson_interval,
)

Json = dict[str, Any]
MIX_5 = [0.55, 0.30, 0.08, 0.04, 0.006]
MIX_13 = [0.005, 0.06, 0.05, 0.12, 0.03, 0.04, 0.02, 0.06, 0.30, 0.08, 0.20, 0.004, 0.01]


def null(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def figure(value: float, half: float = 0.05) -> Json:
    if not np.isfinite(value):
        return {"value": None, "low": None, "high": None}
    return {"value": float(value), "low": max(0.0, value - half), "high": min(1.0, value + half)}


def draw_confusion(counts: np.ndarray, skill: float, generator: np.random.Generator) -> np.ndarray:
    """Cells [C, C]: each class right with probability `skill`, else another class, neighbours first."""
    num_classes = len(counts)
    rows = []
    for true, cells in enumerate(counts.astype(int)):
        distance = np.abs(np.arange(num_classes) - true)
        wrong = np.where(distance > 0, 0.5**distance, 0.0)
        chances = (1 - skill) * wrong / wrong.sum()
        chances[true] = skill
        rows.append(generator.multinomial(cells, chances))
    return np.array(rows)


def evaluation(confusion: np.ndarray, classes: tuple[str, ...], rare: tuple[int, ...]) -> Json:
    f1s, recalls, cells = f1(confusion), recall(confusion), support(confusion)
    predicted = confusion.sum(axis=0)
    per_class = []
    for place, name in enumerate(classes):
        bounds = wilson_interval(int(confusion[place, place]), int(cells[place]))
        per_class.append(
            {
                "class": name,
                "support": int(cells[place]),
                "recall": {"value": null(bounds.value), "low": null(bounds.low), "high": null(bounds.high)},
                "f1": null(f1s[place]),
                "precision": float(confusion[place, place] / predicted[place]) if predicted[place] else None,
            }
        )
    blast = [classes.index("myeloblast")] if "myeloblast" in classes else []
    return {
        "confusion": confusion.tolist(),
        "macro_f1": figure(float(macro_f1(confusion))),
        "balanced_accuracy": figure(float(balanced_accuracy(confusion))),
        "accuracy": figure(float(accuracy(confusion)), 0.03),
        "rare_recall": figure(float(pooled_recall(confusion, rare)), 0.12),
        "blast_recall": figure(float(recalls[blast[0]])) if blast else None,
        "worst_recall": null(float(np.nanmin(recalls))) if np.isfinite(recalls).any() else None,
        "classes_present": int((cells > 0).sum()),
        "per_class": per_class,
    }


def mean_of(evaluations: Json) -> Json | None:
    if not evaluations:
        return None
    keys = ("macro_f1", "balanced_accuracy", "accuracy", "rare_recall")
    values = {key: [one[key]["value"] for one in evaluations.values() if one[key]["value"] is not None] for key in keys}
    return {key: figure(float(np.mean(found)) if found else float("nan")) for key, found in values.items()}


def make_run(
    *, classes: tuple[str, ...], training: list[str], held_out: list[str], rounds: int, seed: int = 7
) -> tuple[Json, list[Json]]:
    """metrics.json and rounds.jsonl as a run of that size writes them."""
    generator = np.random.default_rng(seed)
    mix = np.array(MIX_5 if len(classes) == 5 else MIX_13)
    counts: dict[str, dict[str, np.ndarray]] = {}
    for name in [*training, *held_out]:
        own = mix * generator.lognormal(0, 0.7, len(classes)) * (generator.random(len(classes)) > 0.12)
        total = np.round(own / own.sum() * generator.integers(500, 6000))
        train = np.round(total * 0.7) if name in training else total * 0
        val = np.round(total * 0.1) if name in training else total * 0
        counts[name] = {"train": train, "val": val, "test": total - train - val}
    pooled = sum((counts[name]["train"] for name in training), np.zeros(len(classes)))
    rare = rare_classes(pooled)
    records = [make_round(n, rounds, counts, training, held_out, generator) for n in range(1, rounds + 1)]
    tests = {
        name: draw_confusion(counts[name]["test"], 0.86 if name in training else 0.62, generator) for name in counts
    }
    held = {name: evaluation(tests[name], classes, rare) for name in held_out}
    inside = {name: evaluation(tests[name], classes, rare) for name in training}
    metrics = {
        "study": {
            "name": f"wbc{len(classes)} across {len(counts)} clinics",
            "hash": "3f9a" * 16,
            "seed": 0,
            "registry": f"wbc{len(classes)}",
            "classes": list(classes),
            "rounds": rounds,
            "method": {
                "classification": "logit-adjusted",
                "alignment_weight": 0.1,
                "guide_weight": 0.5,
                "proximal_weight": 0.0,
                "aggregation": "class-count-aware",
                "alpha": 0.5,
                "head_smoothing": 0.5,
                "backbone": "cnn-small",
                "weights": "none",
                "augmentation": "stain",
                "image_size_px": 64,
            },
        },
        "versions": {"wbc-fl": "0.1.0", "torch": "2.13.0", "flwr": "1.41.0", "python": "3.12.3"},
        "seconds": 123.4,
        "rounds_done": rounds,
        "selected_round": max(1, int(rounds * 0.7)),
        "selection": "best-validation",
        "clinics": {
            name: {
                "role": "train" if name in training else "held-out",
                "class_counts": {split: values.tolist() for split, values in counts[name].items()},
            }
            for name in counts
        },
        "rare_classes": [classes[place] for place in rare],
        "held_out": held,
        "mean_held_out": mean_of(held),
        "in_domain": inside,
        "mean_in_domain": mean_of(inside),
        "egress_bytes": {
            name: {
                "describe": 812,
                "class-sums": 1234 * rounds,
                "update": 1_200_000 * rounds,
                "evaluation": 900 * rounds,
            }
            if name in training
            else {"describe": 790, "evaluation": 900 * rounds}
            for name in counts
        },
        "refused": [],
    }
    return metrics, records


def make_round(
    number: int,
    rounds: int,
    counts: dict[str, dict[str, np.ndarray]],
    training: list[str],
    held_out: list[str],
    generator: np.random.Generator,
) -> Json:
    progress = 1 - np.exp(-3 * number / rounds)
    return {
        "round": number,
        "seconds": 3.2,
        "train": {
            name: {
                "loss": float(1.6 - 1.2 * progress + generator.normal(0, 0.04) + 0.1 * place % 0.3),
                "cells": float(counts[name]["train"].sum()),
                "seconds": 1.0,
            }
            for place, name in enumerate(training)
        },
        "refused": [],
        "missing": [],
        "validation": {
            name: draw_confusion(counts[name]["val"], 0.2 + 0.68 * progress, generator).tolist() for name in training
        },
        "held_out": {
            name: draw_confusion(counts[name]["test"], 0.2 + 0.42 * progress, generator).tolist() for name in held_out
        },
        "egress": {name: {"update": 1_200_000} for name in training},
        "checkpoint": {"file": f"round-{number:04d}.safetensors", "sha256": "0" * 64},
    }


def five_classes() -> tuple[Json, list[Json]]:
    return make_run(classes=CLASSES_5, training=["chula", "raabin", "ldwbc"], held_out=["pbc"], rounds=10)


def thirteen_classes() -> tuple[Json, list[Json]]:
    training = ["barcelona", "bangkok", "leeds", "munich", "nantes", "porto", "tehran", "zagreb"]
    return make_run(classes=CLASSES_13, training=training, held_out=["lagos", "quito"], rounds=30)


def put(folder: Path, metrics: Json, rounds: list[Json]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    (folder / "rounds.jsonl").write_text("".join(json.dumps(record) + "\n" for record in rounds), encoding="utf-8")
    return folder
