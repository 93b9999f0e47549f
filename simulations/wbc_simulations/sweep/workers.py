"""Runs the cells of a sweep in worker processes, each with one torch thread, so that `jobs` of them share the cores.

A cell that fails is an ending like another. A worker that dies (killed for want of memory) takes Python's pool with it;
the cells then under way are run again one by one, each in a process of its own, so that the one that kills is known
and the rest goes on. Ctrl-C ends the workers at once, and on Linux whatever else ends the sweep does: a run is safe at
any moment, its journal is written round by round.
"""

import logging
import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from wbc_common.errors import WbcError
from wbc_common.memory import hand_back_now
from wbc_common.processes import die_with_parent
from wbc_simulations.running import EXPERIMENT_FILE, finish_run, start_run
from wbc_simulations.sweep.cells import RECORD_FILE, Cell, Record, record_of
from wbc_simulations.sweep.same_run import cells_digest

Work = Callable[[Cell, Path], Record]
Event = tuple[Cell, Record | None]
_DIED = "its process ended without a word; the system may have stopped it for want of memory"


def run_cell(cell: Cell, output: Path) -> Record:
    """Run a cell, or go on with it; an error is written down, not raised."""
    folder, started = cell.folder(output), time.perf_counter()
    is_new, record = not folder.study_file.exists(), Record(None, None, version=version("wbc-fl"))
    try:
        (folder.path / RECORD_FILE).unlink(missing_ok=True)
        record = replace(record, cells=cells_digest(cell.experiment, cell.study))
        if is_new:
            (folder.path / EXPERIMENT_FILE).unlink(missing_ok=True)  # of an attempt that did not get as far as a plan
            start_run(cell.experiment, cell.study, folder)
        record.write(folder)  # now: a run that is killed says on which cells it was begun
        finish_run(cell.experiment, cell.study if is_new else folder.study(), folder, "in-process")
    except WbcError as error:
        record = replace(record, error=error.problem, remedy=error.remedy)
    except Exception as error:
        record = replace(record, error=f"{type(error).__name__}: {error}")
    else:
        record = replace(record, seconds=time.perf_counter() - started if is_new else None)
    record.write(folder)
    hand_back_now()
    return record


def run_in_workers(cells: Sequence[Cell], output: Path, *, jobs: int, work: Work = run_cell) -> Iterator[Event]:
    """Run cells, `jobs` at a time; yields (cell, None) as each begins and (cell, record) as it ends."""
    left = deque(cells)
    try:
        while left:
            suspects = yield from _run_in_pool(left, output, jobs=jobs, work=work)
            for cell in suspects:
                yield from _run_alone(cell, output, work)
    except BaseException:
        for child in multiprocessing.active_children():
            child.terminate()
        raise


def _run_in_pool(left: deque[Cell], output: Path, *, jobs: int, work: Work) -> Generator[Event, None, list[Cell]]:
    """Run what is left in one pool; returns the cells that were under way when a worker died, if one did."""
    under_way: dict[Future[Record], Cell] = {}
    with _pool(jobs) as pool:
        try:
            while left or under_way:
                while left and len(under_way) < jobs:
                    under_way[pool.submit(work, left[0], output)] = left[0]
                    yield left.popleft(), None
                for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                    record = future.result()
                    yield under_way.pop(future), record
        except BrokenProcessPool:
            return list(under_way.values())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():
                child.terminate()
            raise
    return []


def _run_alone(cell: Cell, output: Path, work: Work) -> Iterator[Event]:
    yield cell, None
    with _pool(1) as pool:
        try:
            record = pool.submit(work, cell, output).result()
        except BrokenProcessPool:
            record = replace(record_of(cell, output), error=_DIED, seconds=None, remedy="try --jobs 1")
            record.write(cell.folder(output))
    yield cell, record


def _pool(jobs: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_prepare_worker)


def _prepare_worker() -> None:
    """One thread, as several runs share the cores; Ctrl-C is the parent's, which ends its workers.

    A run's cautions stand in its report; on the terminal they would stand between the lines of progress.
    """
    die_with_parent()  # first: torch takes its time to import
    logging.getLogger("wbc_server").setLevel(logging.ERROR)
    import torch

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
