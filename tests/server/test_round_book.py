"""The round book: a round exists once its record is on disk, and its model is there before that."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from wbc_common.errors import DataError, MessageError, SettingError, UpdateRefused
from wbc_common.study import StudyConfig, parse_study
from wbc_common.wire import Evaluation, Update
from wbc_server.exchange.participation import Roster
from wbc_server.record import checkpoints, journal, round_book
from wbc_server.record.round_book import RoundBook
from wbc_server.run_folder import RunFolder

GOOD, POOR = [[3, 0], [0, 3]], [[0, 3], [3, 0]]


def a_study(**evaluation: object) -> StudyConfig:
    clinics = {"train": ["east", "north"], "held_out": ["west"]}
    chosen = {"selection": "best-validation", **evaluation}
    return parse_study({"name": "book", "rounds": 5, "clinics": clinics, "evaluation": chosen}, "test")


ROSTER = Roster({"east": 1, "north": 2, "west": 3}, {}, ("east", "north"), ("west",))


def open_book(folder: Path, roster: Roster = ROSTER, **evaluation: object) -> RoundBook:
    return RoundBook(RunFolder(folder), a_study(**evaluation), roster)


def evaluation(confusion: list[list[int]]) -> Evaluation:
    return Evaluation(np.array(confusion), np.zeros((0, 2, 2), dtype=np.int64), np.array([4, 3]))


def model(value: float) -> dict[str, np.ndarray]:
    return {"head.bias": np.full(2, value, dtype=np.float32)}


def commit(book: RoundBook, number: int, validation: list[list[int]] = GOOD) -> None:
    """A round whose model holds its number."""
    book.open_round(number)
    book.keep(model(number))
    book.note_evaluation("east", evaluation(validation))
    book.commit()


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_what_happened_in_a_round_stands_in_its_line(tmp_path: Path) -> None:
    book = open_book(tmp_path)
    book.open_round(1)
    book.note_bytes("east", {"update": 100, "class-sums": 7})
    book.note_bytes("east", {"update": 20})
    book.note_update("east", Update(model(0), np.ones(2), {"loss": 0.12345678}, num_cells=6, seconds=0.5))
    book.refuse("north", "update", UpdateRefused("too long", remedy="look"))
    book.keep(model(1))
    book.note_bytes("west", {"evaluation": 30})
    book.note_evaluation("east", evaluation(GOOD))
    book.note_evaluation("west", evaluation(POOR))
    book.commit()
    (record,) = journal.read(tmp_path / "rounds.jsonl")
    assert record["egress"] == {"east": {"update": 120, "class-sums": 7}, "north": {}, "west": {"evaluation": 30}}
    assert record["train"] == {"east": {"loss": 0.123457, "cells": 6, "seconds": 0.5, "precision": "fp32"}}
    refused = {"round": 1, "clinic": "north", "stage": "update", "kind": "refused", "reason": "too long"}
    assert record["refused"] == [refused]
    assert (record["validation"], record["held_out"]) == ({"east": GOOD}, {"west": POOR})
    assert record["coarse"] == {"east": [4, 3], "west": [4, 3]}


def test_the_checkpoint_is_on_disk_before_the_line_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, seen = journal.append, []

    def look_then_append(path: Path, record: journal.Record) -> None:
        reference = checkpoints.CheckpointRef(**record["checkpoint"])
        seen.append(checkpoints.load(tmp_path / "checkpoints", reference)["head.bias"].tolist())
        append(path, record)

    monkeypatch.setattr(journal, "append", look_then_append)
    commit(open_book(tmp_path), 1)
    assert seen == [[1.0, 1.0]]


class Killed(KeyboardInterrupt):
    """A kill at a moment of the test's choice."""


@contextmanager
def killed_at(monkeypatch: pytest.MonkeyPatch, place: object, name: str) -> Iterator[None]:
    """Whoever calls that function is killed."""

    def crash(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(place, name, crash)
        with pytest.raises(Killed):
            yield


def test_a_kill_before_the_record_is_kept_loses_that_round_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(open_book(tmp_path), 1)
    with killed_at(monkeypatch, round_book, "write_kept"):
        commit(open_book(tmp_path), 2)
    book = open_book(tmp_path)
    assert (book.rounds_done, book.awaited_round) == (1, None)
    assert book.load(1)["head.bias"].tolist() == [1.0, 1.0]
    commit(book, 2)
    assert open_book(tmp_path).load(2)["head.bias"].tolist() == [2.0, 2.0]


def test_a_kill_before_the_line_loses_figures_only_and_they_are_awaited_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(open_book(tmp_path), 1)
    with killed_at(monkeypatch, journal, "append"):
        commit(open_book(tmp_path), 2)
    book = open_book(tmp_path)
    assert (book.rounds_done, book.awaited_round) == (2, 2)
    assert book.load(2)["head.bias"].tolist() == [2.0, 2.0]
    book.note_evaluation("east", evaluation(GOOD))
    book.commit()
    assert [record["round"] for record in journal.read(tmp_path / "rounds.jsonl")] == [1, 2]
    assert journal.read(tmp_path / "rounds.jsonl")[1]["validation"] == {"east": GOOD}


def test_a_kill_after_the_line_awaits_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with killed_at(monkeypatch, RoundBook, "_announce_round"):
        commit(open_book(tmp_path), 1)
    book = open_book(tmp_path)
    assert (book.rounds_done, book.awaited_round) == (1, None)
    book.commit()
    assert len(journal.read(tmp_path / "rounds.jsonl")) == 1


def test_figures_stand_in_the_line_of_the_round_that_they_are_of(tmp_path: Path) -> None:
    book = open_book(tmp_path)
    book.open_round(1)
    book.keep(model(1))
    book.open_round(2)
    book.note_bytes("east", {"update": 100, "evaluation": 10})
    book.note_evaluation("east", evaluation(POOR))
    book.refuse("west", "evaluation", UpdateRefused("too many", remedy="look"))
    book.commit()
    book.keep(model(2))
    book.note_bytes("east", {"evaluation": 11})
    book.note_evaluation("east", evaluation(GOOD))
    book.commit()
    first, second = journal.read(tmp_path / "rounds.jsonl")
    assert (first["validation"], second["validation"]) == ({"east": POOR}, {"east": GOOD})
    assert (first["egress"]["east"], second["egress"]["east"]) == (
        {"evaluation": 10},
        {"update": 100, "evaluation": 11},
    )
    assert [entry["round"] for entry in first["refused"]] == [1]
    assert second["refused"] == []


def test_a_clinic_that_was_absent_and_is_back_after_a_resume_gives_figures_of_the_round_that_waits(
    tmp_path: Path,
) -> None:
    without_north = Roster({"east": 1, "west": 3}, {}, ("east",), ("west",), absent=("north",))
    book = open_book(tmp_path, without_north)
    book.open_round(1)
    book.keep(model(1))
    again = open_book(tmp_path)
    again.open_round(2)
    again.note_bytes("north", {"update": 100, "evaluation": 10})
    again.note_evaluation("north", evaluation(GOOD))
    again.commit()
    (record,) = journal.read(tmp_path / "rounds.jsonl")
    assert record["egress"] == {"east": {}, "west": {}, "north": {"evaluation": 10}}
    assert record["validation"] == {"north": GOOD}


def test_while_a_round_waits_the_one_before_it_can_still_be_gone_on_from(tmp_path: Path) -> None:
    book = open_book(tmp_path, selection="last")
    for number in (1, 2):
        book.open_round(number)
        book.commit()
        book.keep(model(number), {"first/head.bias": np.full(2, number)})
    (tmp_path / "kept-round.json").unlink()
    again = open_book(tmp_path, selection="last")
    assert (again.rounds_done, again.awaited_round) == (1, None)
    assert again.load(1)["head.bias"].tolist() == [1.0, 1.0]
    assert again.load_state()["first/head.bias"].tolist() == [1, 1]


def test_a_kept_round_of_another_plan_stops_the_run(tmp_path: Path) -> None:
    book = open_book(tmp_path)
    book.open_round(1)
    book.keep(model(1))
    with pytest.raises(SettingError, match=r"study\.toml changed"):
        open_book(tmp_path, every_rounds=2)


def test_the_last_and_the_selected_model_are_kept_and_no_other(tmp_path: Path) -> None:
    book = open_book(tmp_path)
    for number, validation in enumerate([POOR, GOOD, POOR, POOR], start=1):
        commit(book, number, validation)
    assert book.selected_round == 2
    assert kept(tmp_path) == ["round-0002.safetensors", "round-0004.safetensors"]
    assert book.load(2)["head.bias"].tolist() == [2.0, 2.0]


def test_with_selection_last_one_model_is_kept(tmp_path: Path) -> None:
    book = open_book(tmp_path, selection="last")
    for number in (1, 2, 3):
        commit(book, number)
    assert kept(tmp_path) == ["round-0003.safetensors"]


def test_an_opened_book_goes_on_after_its_last_line(tmp_path: Path) -> None:
    assert open_book(tmp_path).rounds_done == 0
    book = open_book(tmp_path)
    commit(book, 1)
    commit(book, 2, POOR)
    again = open_book(tmp_path)
    assert (again.rounds_done, again.selected_round) == (2, 1)


def test_a_damaged_model_is_never_loaded(tmp_path: Path) -> None:
    book = open_book(tmp_path)
    commit(book, 1)
    path = tmp_path / "checkpoints" / "round-0001.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match="is damaged"):
        book.load(1)


def test_a_new_round_begins_with_a_clean_page(tmp_path: Path) -> None:
    book = open_book(tmp_path)
    book.open_round(1)
    book.refuse("north", "update", UpdateRefused("too long", remedy="look"))
    book.note_missing(["east"])
    book.keep(model(1))
    book.commit()
    commit(book, 2)
    second = journal.read(book.folder.journal)[1]
    assert (second["refused"], second["missing"]) == ([], [])


def test_what_the_server_carries_along_survives_to_the_bit_and_only_the_last_is_kept(tmp_path: Path) -> None:
    book = open_book(tmp_path)
    assert book.load_state() == {}
    for number in (1, 2):
        book.open_round(number)
        book.keep(model(number), {"first/head.bias": np.array([number / 3, 1e-300])})
        book.commit()
    found = open_book(tmp_path).load_state()
    assert found["first/head.bias"].tobytes() == np.array([2 / 3, 1e-300]).tobytes()
    assert [path.name for path in (tmp_path / "server-state").iterdir()] == ["round-0002.safetensors"]


def test_a_plan_that_exports_the_average_loads_the_average(tmp_path: Path) -> None:
    book = open_book(tmp_path, selection="average")
    for number in (1, 2, 3):
        book.open_round(number)
        book.keep(model(number), {"average/head.bias": np.array([9.0, 8.0]), "averaged": np.array(2)})
        book.commit()
    found = book.load_selected()["head.bias"]
    assert (found.tolist(), found.dtype) == ([9, 8], np.float32)


def test_a_reason_that_quotes_a_clinic_stands_in_the_journal_on_one_line_and_cut(tmp_path: Path) -> None:
    book = open_book(tmp_path)
    book.open_round(1)
    book.refuse("north", "update", MessageError("surplus records a\n\x1b[2Jb" + "c" * 10_000, remedy="look"))
    book.keep(model(1))
    book.commit()
    (record,) = journal.read(tmp_path / "rounds.jsonl")
    reason = record["refused"][0]["reason"]
    assert reason.startswith("surplus records a [2Jbccc")
    assert (reason.isprintable(), len(reason)) == (True, 500)
