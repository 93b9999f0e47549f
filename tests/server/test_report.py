"""The report: a well-formed page that loads nothing, and equal inputs give equal bytes."""

import re
from pathlib import Path
from typing import Any

import pytest

from finished_studies import five_classes, make_run, put, thirteen_classes
from pages import parsed
from wbc_common.cells import CLASSES_5, CLASSES_13
from wbc_common.errors import DataError
from wbc_server.report import words, write_report


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
