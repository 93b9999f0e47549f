"""Jobs side by side on threads of this process, their results in the jobs' order, and few results waiting.

Two clinics on one thread each finish sooner than one after the other on two: a small network's operations are too
short to share. torch releases Python's lock while it computes. What a job computes does not depend on the others, so
the bits are those of one job after the other at the same number of threads a job.

Longest first, by what each job took the last time: with a short job last, no core waits long for the end of a round.
Only the next `AHEAD` jobs in order are candidates, so that memory does not grow with the number of clinics.
"""

import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Result = TypeVar("Result")
AHEAD = 6
_MOST_THREADS = 4  # more only wait for each other on operations as short as ours


@dataclass(frozen=True)
class Job(Generic[Result]):
    """Work to do; jobs of one `kind` take about as long each time."""

    kind: Hashable
    work: Callable[[], Result]


@dataclass(frozen=True)
class Crew:
    """So many workers with so many torch threads each, and the seconds that each kind of job took last."""

    workers: int
    threads_each: int
    seconds: dict[Hashable, float] = field(default_factory=dict)


def crew_for_this_machine() -> Crew:
    """As many workers as torch has threads, up to `AHEAD`, which share them; one where a GPU serves one at a time."""
    import torch

    threads = torch.get_num_threads()
    workers = 1 if torch.cuda.is_available() else min(threads, AHEAD)
    return Crew(workers, min(threads // workers, _MOST_THREADS))


def results_in_order(jobs: Sequence[Job[Result]], crew: Crew) -> Iterator[Result]:
    """Each job's result, in order; nothing is started before the first is asked for.

    What a job raises is raised when its turn comes; jobs that were not started then never are.
    """
    if crew.workers == 1:
        for job in jobs:
            yield job.work()
        return
    with ThreadPoolExecutor(crew.workers, "clinic", initializer=_limit_threads, initargs=(crew.threads_each,)) as pool:
        yield from _on_pool(jobs, crew, pool)


def _on_pool(jobs: Sequence[Job[Result]], crew: Crew, pool: ThreadPoolExecutor) -> Iterator[Result]:
    futures: dict[int, Future[Result]] = {}
    try:
        for turn in range(len(jobs)):
            while True:
                _start(jobs, turn, futures, crew, pool)
                # Looked at once: a job that ends in between is in the set, and the wait for any of it returns at once.
                unfinished = {future for future in futures.values() if not future.done()}
                if turn in futures and futures[turn] not in unfinished:
                    break
                wait(unfinished, return_when=FIRST_COMPLETED)
            result = futures.pop(turn).result()
            _start(jobs, turn + 1, futures, crew, pool)
            yield result
    finally:
        for future in futures.values():
            future.cancel()


def _start(
    jobs: Sequence[Job[Result]], turn: int, futures: dict[int, Future[Result]], crew: Crew, pool: ThreadPoolExecutor
) -> None:
    """Start jobs from `turn` on until every worker is busy and one job waits, so that none is idle between two."""
    candidates = [place for place in range(turn, min(turn + AHEAD, len(jobs))) if place not in futures]
    candidates.sort(key=lambda place: crew.seconds.get(jobs[place].kind, 0.0), reverse=True)
    busy = sum(not future.done() for future in futures.values())
    for place in candidates[: max(0, crew.workers + 1 - busy)]:
        futures[place] = pool.submit(_timed, jobs[place], crew)


def _timed(job: Job[Result], crew: Crew) -> Result:
    started = time.perf_counter()
    result = job.work()
    crew.seconds[job.kind] = time.perf_counter() - started
    return result


def _limit_threads(number: int) -> None:
    import torch

    torch.set_num_threads(number)
