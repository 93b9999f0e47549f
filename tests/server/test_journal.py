"""The journal survives a crash at any byte, a full disk, and numbers that JSON does not know."""

import errno
import json
import logging
import os
import resource
from contextlib import contextmanager

import numpy as np
import pytest

from wbc_common.errors import DataError, WbcError
from wbc_server.record import journal

RECORDS = [{"round": number, "refused": ["ä"], "f1": 0.5} for number in (1, 2, 3)]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "run" / "rounds.jsonl"
    for record in RECORDS:
        journal.append(path, record)
    return path


@contextmanager
def file_size_limit(num_bytes):
    """No file may grow beyond `num_bytes`: the kernel writes what fits, then fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_is_appended_is_read_back_in_order(path):
    assert journal.read(path) == RECORDS
    assert path.read_bytes().count(b"\n") == 3


def test_before_the_first_round_there_is_nothing(tmp_path):
    assert journal.read(tmp_path / "rounds.jsonl") == []


def test_an_empty_file_holds_no_rounds_and_no_warning(tmp_path, caplog):
    (tmp_path / "rounds.jsonl").touch()
    assert journal.read(tmp_path / "rounds.jsonl") == []
    assert not caplog.records


def test_a_record_is_on_disk_when_append_returns(path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_size))
    journal.append(path, {"round": 4})
    assert synced == [path.stat().st_size]


def test_a_crash_at_any_byte_of_the_last_line_costs_that_line_at_most(path, caplog):
    whole = path.read_bytes()
    last = whole[:-1].rindex(b"\n") + 1
    for size in range(last, len(whole) + 1):
        path.write_bytes(whole[:size])
        complete = size >= len(whole) - 1  # only the newline is missing, or nothing
        expected = RECORDS if complete else RECORDS[:2]
        caplog.clear()
        assert journal.read(path) == expected
        assert [record.levelno for record in caplog.records] == [logging.WARNING] * (last < size < len(whole) - 1)
        journal.append(path, {"round": "next"})
        assert journal.read(path) == [*expected, {"round": "next"}]


def test_a_crash_in_the_very_first_line_costs_that_line(tmp_path):
    path = tmp_path / "rounds.jsonl"
    path.write_bytes(b'{"rou')
    assert journal.read(path) == []
    journal.append(path, {"round": 1})
    assert journal.read(path) == [{"round": 1}]


@pytest.mark.parametrize(
    "tail", [b"\0\0\0\0", b"\xff\xfe\n", b"[1, 2]\n", b'{"a": NaN}\n', b"[" * 100_000, b"\n", b"x" * 200_000]
)
def test_a_last_line_that_is_no_object_is_dropped_and_repaired(path, tail):
    path.write_bytes(path.read_bytes() + tail)
    assert journal.read(path) == RECORDS
    journal.append(path, {"round": 4})
    assert path.read_bytes().endswith(b'"f1":0.5}\n{"round":4}\n')
    assert journal.read(path) == [*RECORDS, {"round": 4}]


def test_a_long_line_is_found_whole_from_the_end(path):
    long = {"round": 4, "text": "x" * 300_000}
    journal.append(path, long)
    journal.append(path, {"round": 5})
    assert journal.read(path)[3:] == [long, {"round": 5}]


def test_reading_repairs_nothing(path):
    path.write_bytes(path.read_bytes() + b'{"rou')
    before = path.read_bytes()
    journal.read(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", [b'{"round": 2', b"", b"null", b'{"f1": Infinity}'])
def test_damage_before_the_last_line_stops_with_its_number_and_a_next_step(path, damage):
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([lines[0], damage, lines[2]]) + b"\n")
    with pytest.raises(DataError, match="line 2 of 3") as caught:
        journal.read(path)
    assert "backup" in caught.value.remedy


def test_a_folder_in_the_journals_place_is_reported(tmp_path):
    with pytest.raises(DataError, match="cannot read journal"):
        journal.read(tmp_path)


def test_numbers_that_are_not_finite_become_null(path):
    journal.append(path, {"a": float("nan"), "b": [float("inf"), {"c": -float("inf")}], "d": (1.5, np.nan)})
    assert journal.read(path)[-1] == {"a": None, "b": [None, {"c": None}], "d": [1.5, None]}


def test_numpys_numbers_and_arrays_become_jsons(path):
    record = {"i": np.int64(3), "f": np.float32(0.5), "n": np.float32("nan"), "a": np.array([[1, 2]]), "b": np.True_}
    journal.append(path, record)
    assert journal.read(path)[-1] == {"i": 3, "f": 0.5, "n": None, "a": [[1, 2]], "b": True}


@pytest.mark.parametrize("record", [{"round": object()}, {float("nan"): 1}])
def test_a_record_that_is_no_json_leaves_the_journal_alone(path, record):
    with pytest.raises((TypeError, ValueError)):
        journal.append(path, record)
    assert journal.read(path) == RECORDS


def test_a_disk_that_fills_within_a_line_loses_nothing_already_written(path):
    before = path.read_bytes()
    with file_size_limit(len(before) + 10), pytest.raises(WbcError, match="cannot write") as caught:
        journal.append(path, {"round": 4, "text": "longer than ten bytes"})
    assert "free space" in caught.value.remedy
    assert path.read_bytes() == before
    journal.append(path, {"round": 4})
    assert journal.read(path) == [*RECORDS, {"round": 4}]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_sync_that_fails_takes_the_line_back(path, monkeypatch, code):
    before = path.read_bytes()

    def fail(descriptor):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(WbcError, match=os.strerror(code)):
        journal.append(path, {"round": 4})
    assert path.read_bytes() == before


def test_a_repair_on_a_full_disk_leaves_the_whole_lines(path):
    torn = path.read_bytes() + b'{"rou'
    path.write_bytes(torn)
    with file_size_limit(10), pytest.raises(WbcError):
        journal.append(path, {"round": 4})
    assert path.read_bytes() == torn
    assert [entry.name for entry in path.parent.iterdir()] == ["rounds.jsonl"]


def test_each_line_is_one_strict_json_object(path):
    for line in path.read_text(encoding="utf-8").splitlines():
        assert isinstance(json.loads(line), dict)
