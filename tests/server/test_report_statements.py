"""The report: what it says of a study, and what it does not claim."""

import re
from pathlib import Path

import numpy as np

from finished_studies import five_classes, make_run, put, thirteen_classes
from pages import lead_of, parsed
from wbc_common.cells import CLASSES_5
from wbc_server.report import write_report


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
