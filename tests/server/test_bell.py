"""The bell: each ring is later than the one before, and another bell can take its time."""

import os
import time
from pathlib import Path

import pytest

from wbc_server.exchange.bell import Bell


def test_each_ring_is_later_than_the_one_before_also_when_the_clock_is_set_back(tmp_path: Path) -> None:
    bell = Bell(tmp_path / "tasks.bell")
    assert bell.last() == 0
    first = bell.ring()
    assert bell.last() == first
    ahead = time.time_ns() + 3600 * 10**9
    bell.set(ahead)
    assert ahead < bell.ring() < bell.ring()


def test_each_ring_is_later_on_a_file_system_that_keeps_whole_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    utime = os.utime

    def coarse(path: Path, times: None = None, *, ns: tuple[int, int] = (0, 0)) -> None:
        utime(path, ns=(ns[0] // 10**9 * 10**9,) * 2)

    monkeypatch.setattr(os, "utime", coarse)
    bell = Bell(tmp_path / "tasks.bell")
    rings = [bell.ring() for _ in range(3)]
    assert rings[0] < rings[1] < rings[2] == bell.last()


def test_a_bell_takes_the_time_of_another_to_the_nanosecond(tmp_path: Path) -> None:
    tasks, idle = Bell(tmp_path / "tasks.bell"), Bell(tmp_path / "idle.bell")
    idle.set(0)
    assert idle.last() == 0
    rung = tasks.ring()
    idle.set(rung)
    assert idle.last() == rung
