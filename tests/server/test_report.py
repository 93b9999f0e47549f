"""The report: what it says, what it must never contain, and that equal inputs give equal bytes."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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
from wbc_common.errors import DataError
from wbc_server import report
from wbc_server.report import words, write_report

Json = dict[str, Any]
MIX_5 = [0.55, 0.30, 0.08, 0.04, 0.006]
MIX_13 = [0.005, 0.06, 0.05, 0.12, 0.03, 0.04, 0.02, 0.06, 0.30, 0.08, 0.20, 0.004, 0.01]
VOID = {"col", "meta", "br", "link", "img", "input", "hr"}


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


def test_the_report_is_written_beside_its_inputs(tmp_path: Path) -> None:
    path = write_report(put(tmp_path, *five_classes()))
    assert path == tmp_path / "report.html"
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["metrics.json", "report.html", "rounds.jsonl"]


def test_equal_inputs_give_equal_bytes_whatever_this_machine_sets_for_matplotlib(tmp_path: Path) -> None:
    import matplotlib

    first = write_report(put(tmp_path / "first", *five_classes())).read_bytes()
    with matplotlib.rc_context({"font.size": 31, "svg.hashsalt": "other", "lines.linewidth": 9}):
        second = write_report(put(tmp_path / "second", *five_classes())).read_bytes()
    assert first == second


@pytest.mark.parametrize("make", [five_classes, thirteen_classes])
def test_the_page_is_well_formed_and_every_id_and_link_in_it_is_unique_and_meets(tmp_path: Path, make: Any) -> None:
    page = parsed(write_report(put(tmp_path, *make())))
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links} <= set(page.ids)
    assert all(link.startswith("#") for link in page.links)


def test_the_page_loads_nothing_and_runs_nothing(tmp_path: Path) -> None:
    path = write_report(put(tmp_path, *thirteen_classes()))
    page, text = parsed(path), path.read_text(encoding="utf-8")
    policy = page.metas["Content-Security-Policy"]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert page.tags.isdisjoint({"script", "img", "iframe", "object", "embed", "form", "base", "link", "image"})
    assert not [name for name in page.attributes if name.startswith("on") or name in {"src", "srcset", "action"}]
    addresses = set(re.findall(r"https?://[^\"'\s<]+", text))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert not re.search(r"@import|url\((?!#)", text)


def test_names_and_reasons_are_text_never_markup(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    metrics, rounds = make_run(classes=CLASSES_5, training=[evil, "a$x^2$b"], held_out=["<b>held"], rounds=3)
    metrics["study"]["name"] = '"><script>study'
    reason = "<img src=x onerror=1>"
    metrics["refused"] = [{"round": 1, "clinic": evil, "stage": "train", "kind": "x", "reason": reason}]
    metrics["versions"]["<i>"] = "&lt;"
    path = write_report(put(tmp_path, metrics, rounds))
    page = parsed(path)
    assert page.tags.isdisjoint({"script", "img"})
    assert page.text.count(evil) >= 3
    assert reason in page.text
    assert "a$x^2$b" in page.text


def test_the_first_page_states_the_held_out_figure_its_interval_and_its_cells(tmp_path: Path) -> None:
    metrics, rounds = five_classes()
    metrics["held_out"]["pbc"]["confusion"] = np.diag([10, 20, 30, 40, 0]).tolist()
    metrics["mean_held_out"]["macro_f1"] = {"value": 0.523, "low": 0.461, "high": 0.579}
    lead = lead_of(write_report(put(tmp_path, metrics, rounds)))
    assert (
        "On pbc, a clinic that took no part in training, macro-F1 is 0.52 (95 % interval 0.46 to 0.58; 100 cells)."
        in lead
    )
    assert "no cells of the rare classes (basophil) there" in lead


def test_few_rare_cells_are_called_few(tmp_path: Path) -> None:
    metrics, rounds = five_classes()
    metrics["rare_classes"] = ["basophil"]
    metrics["held_out"]["pbc"]["confusion"][4] = [3, 0, 0, 0, 7]
    lead = lead_of(write_report(put(tmp_path, metrics, rounds)))
    assert "recognised 7 of the 10 cells of the rare class there (basophil). So few cells settle nothing." in lead


def test_a_clinic_that_was_missing_or_refused_is_named_first_with_its_share_of_the_cells(tmp_path: Path) -> None:
    metrics, rounds = five_classes()
    for name, cells in (("chula", 150.0), ("raabin", 250.0), ("ldwbc", 600.0)):
        metrics["clinics"][name]["class_counts"]["train"] = [cells, 0, 0, 0, 0]
    for record in rounds[4:7]:
        record["missing"] = ["chula"]
    metrics["refused"] = [{"round": 2, "clinic": "raabin", "stage": "train", "kind": "refused", "reason": "norm"}]
    page = write_report(put(tmp_path, metrics, rounds)).read_text(encoding="utf-8")
    head = " ".join(re.sub("<[^>]+>", "", page[page.index("<body>") : page.index("<main>")]).split())
    assert "chula: no reply in rounds 5–7; 15 % of the training cells." in head
    assert "raabin: reply not counted in round 2; 25 % of the training cells. (train refused: norm)" in head
    assert "ldwbc:" not in head


def test_a_clinic_without_any_result_is_named(tmp_path: Path) -> None:
    metrics, rounds = five_classes()
    metrics["clinics"]["oslo"] = {"role": "held-out", "class_counts": {}}
    page = parsed(write_report(put(tmp_path, metrics, rounds)))
    assert "oslo: no result in the whole study; its cells are not known." in page.text


def test_a_study_that_ended_early_says_so_first(tmp_path: Path) -> None:
    metrics, rounds = five_classes()
    metrics["rounds_done"] = 4
    page = parsed(write_report(put(tmp_path, metrics, rounds[:4])))
    assert "The study ended after 4 of 10 planned rounds." in page.text


def test_without_a_held_out_clinic_the_report_claims_nothing_about_new_clinics(tmp_path: Path) -> None:
    metrics, rounds = make_run(classes=CLASSES_5, training=["north", "south"], held_out=[], rounds=2)
    path = write_report(put(tmp_path, metrics, rounds))
    assert "No clinic was held out" in lead_of(path)
    assert "a clinic that took no part" not in parsed(path).text
    assert "Test cells of the training clinics" in parsed(path).text


def test_held_out_clinics_that_gave_no_final_result_are_not_called_unplanned(tmp_path: Path) -> None:
    metrics, rounds = make_run(classes=CLASSES_5, training=["north", "south"], held_out=["west"], rounds=2)
    metrics |= {"held_out_planned": ["quito", "west"], "held_out": {}, "mean_held_out": None}
    late = "no answer within the time of the round"
    metrics["refused"] = [{"round": 2, "clinic": "west", "stage": "final evaluation", "kind": "absent", "reason": late}]
    path = write_report(put(tmp_path, metrics, rounds))
    assert "The held-out clinics of the plan (quito and west) gave no final result" in lead_of(path)
    text = " ".join(parsed(path).text.split())
    assert "No clinic was held out" not in text
    assert "west: no result in the measurements at the end; 100 % of the held-out test cells." in text
    assert f"(final evaluation absent: {late})" in text
    assert "quito: no result in the whole study" in text


def test_one_round_has_no_curve_and_says_so(tmp_path: Path) -> None:
    metrics, rounds = make_run(classes=CLASSES_5, training=["north", "south"], held_out=["west"], rounds=1)
    assert "there is no learning curve" in parsed(write_report(put(tmp_path, metrics, rounds))).text


def test_rounds_that_were_not_evaluated_are_skipped(tmp_path: Path) -> None:
    metrics, rounds = five_classes()
    for record in rounds[1:]:
        record["validation"], record["held_out"] = {}, None
    rounds[-1].pop("held_out")
    rounds[-1]["held_out"] = {"pbc": np.diag([5, 5, 5, 5, 5]).tolist()}
    assert "pbc 1.00" in parsed(write_report(put(tmp_path, metrics, rounds))).text


def test_undefined_figures_are_dashes_never_nan_or_none(tmp_path: Path) -> None:
    metrics, rounds = five_classes()
    empty = {"value": None, "low": None, "high": None}
    for one in metrics["held_out"].values():
        one |= {
            "macro_f1": empty,
            "balanced_accuracy": empty,
            "accuracy": empty,
            "rare_recall": None,
            "worst_recall": None,
        }
        one["confusion"] = np.zeros((5, 5), dtype=int).tolist()
        one["classes_present"] = 0
        one["per_class"] = [
            {"class": n, "support": 0, "recall": empty, "f1": None, "precision": None} for n in CLASSES_5
        ]
    metrics["mean_held_out"] = dict.fromkeys(("macro_f1", "balanced_accuracy", "accuracy", "rare_recall"), empty)
    metrics |= {"selected_round": None, "seconds": None, "rare_classes": [], "egress_bytes": {}}
    for record in rounds:
        record["train"]["chula"]["loss"] = None
    page = parsed(write_report(put(tmp_path, metrics, rounds)))
    assert "macro-F1 could not be computed (0 cells)" in page.text
    assert not re.search(r"\b(nan|None|null|inf)\b", page.text)


def test_a_loss_that_an_older_journal_let_in_breaks_the_line_and_not_the_report(tmp_path: Path) -> None:
    metrics, rounds = five_classes()
    rounds[3]["train"]["chula"]["loss"] = 1.7e308
    assert "Training loss" in parsed(write_report(put(tmp_path, metrics, rounds))).text


def test_a_bare_nan_in_the_files_reads_as_undefined(tmp_path: Path) -> None:
    metrics, rounds = five_classes()
    metrics["mean_held_out"]["rare_recall"] = {"value": float("nan"), "low": float("nan"), "high": float("nan")}
    assert "nan" not in parsed(write_report(put(tmp_path, metrics, rounds))).text.lower().split()


def test_every_count_of_a_confusion_matrix_stands_in_its_cell(tmp_path: Path) -> None:
    metrics, rounds = thirteen_classes()
    page = write_report(put(tmp_path, metrics, rounds)).read_text(encoding="utf-8")
    tables = re.findall(r'<table class="confusion.*?</table>', page, flags=re.DOTALL)
    matrices = [np.array(metrics["held_out"][name]["confusion"]) for name in ("lagos", "quito")]
    assert len(tables) == 3
    for table, expected in zip(tables, [*matrices, matrices[0] + matrices[1]], strict=True):
        cells = re.findall(r'<td class="([rw])(\d)"[^>]*>([\d,]*)</td>', table)
        shown = np.array([int(text.replace(",", "") or 0) for _, _, text in cells]).reshape(13, 13)
        assert (shown == expected).all()
        assert [kind for kind, *_ in cells].count("r") == 13


def test_a_class_that_a_clinic_does_not_hold_is_visible(tmp_path: Path) -> None:
    metrics, rounds = five_classes()
    metrics["clinics"]["chula"]["class_counts"] = {"train": [9, 0, 0, 0, 0], "val": [0] * 5, "test": [0] * 5}
    page = write_report(put(tmp_path, metrics, rounds)).read_text(encoding="utf-8")
    row = next(row for row in re.findall(r"<tr.*?</tr>", page, flags=re.DOTALL) if ">chula " in row)
    assert row.count(">none<") == 4


def test_bytes_that_left_each_clinic_are_listed_by_kind(tmp_path: Path) -> None:
    metrics, rounds = five_classes()
    metrics["egress_bytes"]["chula"] = {
        "describe": 812,
        "class-sums": 1234,
        "update": 12_000_000,
        "evaluation": 9000,
        "odd": 5,
    }
    page = parsed(write_report(put(tmp_path, metrics, rounds)))
    for text in ("812 B", "1.2 kB", "12.0 MB", "9.0 kB", "odd", "5 B"):
        assert text in page.text
    assert "no secure aggregation or differential privacy was used in this study" in page.text
    assert "Held-out clinics sent no class sums and no model update." in page.text


def test_a_held_out_clinic_that_sent_an_update_is_not_passed_over(tmp_path: Path) -> None:
    metrics, rounds = five_classes()
    metrics["egress_bytes"]["pbc"]["update"] = 10
    page = parsed(write_report(put(tmp_path, metrics, rounds)))
    assert "Held out, and yet sent class sums or updates: pbc." in page.text
    assert "Held-out clinics sent no class sums" not in page.text


def test_the_largest_study_stays_below_a_megabyte(tmp_path: Path) -> None:
    training = [f"clinic-with-a-name-{number:02d}" for number in range(17)]
    run = make_run(classes=CLASSES_13, training=training, held_out=["lagos", "oslo", "quito"], rounds=100)
    assert write_report(put(tmp_path, *run)).stat().st_size < 1_000_000


def test_a_study_of_hundreds_of_clinics_still_makes_a_page_to_read(tmp_path: Path) -> None:
    training = [f"clinic-{number:03d}" for number in range(300)]
    run = make_run(
        classes=CLASSES_5, training=training, held_out=[f"far-{number:02d}" for number in range(20)], rounds=3
    )
    path = write_report(put(tmp_path, *run))
    page = parsed(path)
    assert path.stat().st_size < 1_000_000
    assert "320 clinics took part. Tables and charts show the 12 of each role" in page.text
    assert "All held-out clinics" in page.text


@pytest.mark.parametrize("name", ["metrics.json", "rounds.jsonl"])
def test_a_missing_file_is_a_data_error_with_a_next_step(tmp_path: Path, name: str) -> None:
    (put(tmp_path, *five_classes()) / name).unlink()
    with pytest.raises(DataError, match=name) as failure:
        write_report(tmp_path)
    assert "finished run" in failure.value.remedy
    assert not (tmp_path / "report.html").exists()


def test_broken_inputs_are_named_and_an_earlier_report_survives(tmp_path: Path) -> None:
    metrics, rounds = five_classes()
    before = write_report(put(tmp_path, metrics, rounds)).read_bytes()
    with (tmp_path / "rounds.jsonl").open("a", encoding="utf-8") as file:
        file.write("{broken\n")
    with pytest.raises(DataError, match=r"rounds\.jsonl, line 11 is not valid JSON"):
        write_report(tmp_path)
    metrics["held_out"]["pbc"]["confusion"] = [[1, 2], [3, 4]]
    put(tmp_path, metrics, rounds)
    with pytest.raises(DataError, match="pbc: a confusion matrix is not 5 × 5"):
        write_report(tmp_path)
    assert (tmp_path / "report.html").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 3


def test_figures_are_written_as_people_read_them() -> None:
    assert [words.size(n) for n in (0, 999, 1000, 12_000_000, 999_999)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "12.0 MB",
        "1.0 MB",
    ]
    assert words.ranges([7, 3, 5, 6, 6]) == "3, 5–7"
    assert words.share(1, 8) == "12 %"
    assert words.share(1, 1000) == "0.1 %"
    assert words.rate(float("nan")) == "–"
    assert words.listed(["a", "b", "c"]) == "a, b and c"
    assert [words.duration(s) for s in (3.4, 600, 9000)] == ["3 s", "10 min", "2 h 30 min"]


def test_every_text_contrasts_with_its_ground_by_4_5_to_1_in_both_schemes() -> None:
    """WCAG 2.2, 1.4.3, computed here from its own definition."""
    css = (Path(report.__file__).parent / "style.css").read_text(encoding="utf-8")
    schemes = [
        dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", block)) for block in re.findall(r":root \{(.*?)\}", css, re.S)
    ]
    light, dark = schemes[0], schemes[0] | schemes[1]
    shades = re.findall(r"\.([rw]\d) \{ background: (#[0-9a-f]{6}); color: var\(--([a-z]+)\)", css)
    assert len(shades) == 36
    for place, (_, ground, text) in enumerate(shades):
        assert contrast(ground, (light if place < 18 else dark)[text]) >= 4.5
    for scheme in (light, dark):
        for ground in ("paper", "raised"):
            assert min(contrast(scheme[ground], scheme[text]) for text in ("ink", "soft", "azure", "eosin")) >= 4.5
        for band in ("azure-band", "eosin-band"):
            assert contrast(scheme[band], scheme["ink"]) >= 4.5


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def luminance(color: str) -> float:
    channels = [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


class Page(HTMLParser):
    """Tags, ids, links and text of a page; raises where a tag closes another."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.metas: dict[str, str] = {}
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.tags.add(tag)
        self.attributes |= set(values)
        self.ids += [values["id"]] if "id" in values else []
        self.links += [values[name] for name in ("href", "xlink:href") if name in values]
        if tag == "meta":
            self.metas[values.get("http-equiv") or values.get("name", "charset")] = values.get("content", "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


def parsed(path: Path) -> Page:
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    page.close()
    assert page.open == []
    return page


def lead_of(path: Path) -> str:
    page = path.read_text(encoding="utf-8")
    lead = re.search(r'<p class="lead">(.*?)</p>', page, flags=re.DOTALL)
    assert lead is not None
    return " ".join(re.sub("<[^>]+>", "", lead[1]).split())
