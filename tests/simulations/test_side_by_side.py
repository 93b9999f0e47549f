"""Jobs side by side: results in order, two at a time, longest first, few ahead."""

import threading
import time
from collections.abc import Callable

import pytest
import torch

from wbc_simulations.engine.side_by_side import AHEAD, Crew, Job, crew_for_this_machine, results_in_order


def jobs_of(work: Callable[[int], int], number: int) -> list[Job[int]]:
    return [Job(place, lambda place=place: work(place)) for place in range(number)]  # type: ignore[misc]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_results_come_in_the_order_of_the_jobs_however_long_each_takes(workers: int) -> None:
    def slow_first(place: int) -> int:
        time.sleep(0.05 if place == 0 else 0)
        return place

    assert list(results_in_order(jobs_of(slow_first, 9), Crew(workers, 1))) == list(range(9))


def test_two_jobs_meet_that_would_wait_for_each_other_forever_alone() -> None:
    meeting = threading.Barrier(2, timeout=10)

    def meet(place: int) -> int:
        meeting.wait()
        return place

    assert list(results_in_order(jobs_of(meet, 4), Crew(2, 1))) == [0, 1, 2, 3]


def test_nothing_starts_before_the_first_result_is_asked_for_and_only_a_few_jobs_ahead() -> None:
    started: list[int] = []

    def note(place: int) -> int:
        started.append(place)
        return place

    results = results_in_order(jobs_of(note, 50), Crew(2, 1))
    assert started == []
    for taken in range(50):
        assert next(results) == taken
        assert max(started) <= taken + AHEAD


def test_the_job_that_took_longest_last_time_starts_first() -> None:
    started: list[int] = []
    lock = threading.Lock()

    def note(place: int) -> int:
        with lock:
            started.append(place)
        time.sleep(0.02)
        return place

    crew = Crew(2, 1, {0: 1.0, 1: 2.0, 2: 9.0, 3: 8.0})
    assert list(results_in_order(jobs_of(note, 4), crew)) == [0, 1, 2, 3]
    assert set(started[:2]) == {2, 3}
    assert crew.seconds[2] < 1.0


def test_what_a_job_raises_is_raised_in_its_turn_and_later_jobs_are_not_begun() -> None:
    worked: list[int] = []

    def fail_at_two(place: int) -> int:
        worked.append(place)
        if place == 2:
            raise ZeroDivisionError("a bug of ours")
        return place

    results = results_in_order(jobs_of(fail_at_two, 50), Crew(2, 1))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ZeroDivisionError, match="a bug of ours"):
        next(results)
    assert max(worked) <= 2 + AHEAD


def test_each_worker_has_its_share_of_the_threads() -> None:
    threads = torch.get_num_threads()
    assert list(results_in_order(jobs_of(lambda _: torch.get_num_threads(), 3), Crew(2, 1))) == [1, 1, 1]
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(("threads", "expected"), [(1, (1, 1)), (2, (2, 1)), (4, (4, 1)), (16, (6, 2)), (64, (6, 4))])
def test_a_crew_shares_the_threads_of_the_machine(
    monkeypatch: pytest.MonkeyPatch, threads: int, expected: tuple[int, int]
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    crew = crew_for_this_machine()
    assert (crew.workers, crew.threads_each) == expected


def test_a_gpu_serves_one_clinic_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert crew_for_this_machine().workers == 1
