"""What a sweep shows: how far it is, how long it will take, where each cell stands.

Time left is what the cells left will take if each takes as long as the median of its method, shared among the workers.
It is not known before the first cell has ended, and says so.
"""

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TimeElapsedColumn
from rich.text import Text

from wbc_simulations.sweep.cells import STATES, Cell, Record, record_of, state_of
from wbc_simulations.sweep.workers import Event, run_in_workers


class Clock:
    """Estimates the time left of a sweep.

    Args:
        cells: all cells that are not finished.
        known: method → seconds of each of its finished cells, of earlier sweeps too.
        jobs: cells at a time.
    """

    def __init__(self, cells: Iterable[Cell], known: dict[str, list[float]], jobs: int) -> None:
        self._known = known
        self._jobs = jobs
        self._waiting = list(cells)
        self._begun: dict[str, tuple[Cell, float]] = {}

    def note(self, cell: Cell, seconds: float | None, *, ended: bool, now: float) -> None:
        """A cell began or ended, at a time of a clock in seconds."""
        if not ended:
            self._waiting = [waiting for waiting in self._waiting if waiting is not cell]
            self._begun[str(cell)] = (cell, now)
            return
        self._begun.pop(str(cell), None)
        if seconds is not None:
            self._known.setdefault(cell.method, []).append(seconds)

    def seconds_left(self, now: float) -> float | None:
        """The estimate; None while no cell has ended."""
        everything = [seconds for known in self._known.values() for seconds in known]
        if not everything:
            return None

        def expected(cell: Cell) -> float:
            return median(self._known.get(cell.method) or everything)

        begun = [max(expected(cell) - (now - since), 0.0) for cell, since in list(self._begun.values())]
        waiting = [expected(cell) for cell in self._waiting]
        if not begun and not waiting:
            return 0.0
        return max(sum([*begun, *waiting]) / self._jobs, *begun, *waiting)


def run_sweep(cells: Sequence[Cell], output: Path, *, jobs: int, console: Console) -> None:
    """Run every cell that is not finished, `jobs` at a time, with progress and time left; failures are written down."""
    states = {str(cell): state_of(cell, output) for cell in cells}
    left = [cell for cell in cells if states[str(cell)] != "finished"]
    clock = Clock(left, _known_seconds(cells, output), jobs)
    _tell_versions([cell for cell in cells if states[str(cell)] == "finished"], output, console)
    columns = (MofNCompleteColumn(), BarColumn(), TimeElapsedColumn(), _TimeLeft(clock))
    try:
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("runs", total=len(cells), completed=len(cells) - len(left))
            for event in run_in_workers(left, output, jobs=jobs):
                _note(event, clock)
                if event[1] is not None:
                    progress.advance(task)
                    _tell(event, clock, progress, f"{progress.tasks[0].completed:.0f}/{len(cells)}")
    except KeyboardInterrupt:
        console.print("stopped; finished runs are kept: the same command goes on with the others")
        raise


def _tell_versions(finished: Sequence[Cell], output: Path, console: Console) -> None:
    """Runs by another version of this package are kept, and said: its figures may differ from this one's."""
    ours, ran = version("wbc-fl"), Counter(record_of(cell, output).version for cell in finished)
    for other in sorted({name for name in ran if name is not None} - {ours}):
        console.print(
            f"finished runs kept from wbc-fl {other}: {ran[other]}; this is {ours}, another --output runs all anew",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def _note(event: Event, clock: Clock) -> None:
    cell, record = event
    clock.note(cell, record.seconds if record else None, ended=record is not None, now=time.monotonic())


def _tell(event: Event, clock: Clock, progress: Progress, place: str) -> None:
    """A failure always; each ending where there is no terminal whose bar would show it."""
    cell, record = event
    if record is None or (record.error is None and progress.console.is_terminal):
        return
    how = "finished" if record.error is None else f"FAILED: {record.failure}"
    left = _words(clock.seconds_left(time.monotonic()))
    progress.console.print(f"{place} {cell}: {how}; {left}", markup=False, highlight=False, soft_wrap=True)


class _TimeLeft(ProgressColumn):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def render(self, task: Task) -> Text:
        """The estimate, as it is now."""
        return Text("done" if task.finished else _words(self._clock.seconds_left(time.monotonic())))


def _words(seconds: float | None) -> str:
    if seconds is None:
        return "time left is known after the first run"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"about {hours} h {minutes:02d} min left" if hours else f"about {minutes} min {rest:02d} s left"


def _known_seconds(cells: Sequence[Cell], output: Path) -> dict[str, list[float]]:
    known: dict[str, list[float]] = {}
    for cell in cells:
        seconds = record_of(cell, output).seconds
        if seconds is not None:
            known.setdefault(cell.method, []).append(seconds)
    return known


def status(cells: Sequence[Cell], output: Path) -> list[dict[str, Any]]:
    """Where each cell stands, for a script."""
    return [
        {
            "fold": str(cell.fold),
            "method": cell.method,
            "seed": cell.seed,
            "state": state_of(cell, output),
            "error": record_of(cell, output).error,
            "remedy": record_of(cell, output).remedy,
            "folder": str(cell.folder(output).path),
        }
        for cell in cells
    ]


def status_text(listed: Sequence[dict[str, Any]]) -> str:
    """A line for each fold and method with its seeds by state, then what failed and why."""
    lines = [f"{len(listed)} runs: " + ", ".join(f"{_count(listed, state)} {state}" for state in STATES)]
    for fold, method in dict.fromkeys((run["fold"], run["method"]) for run in listed):
        runs = [run for run in listed if (run["fold"], run["method"]) == (fold, method)]
        lines.append(f"  {fold} held out, {method}: {_seeds_by_state(runs)}")
    failed = [run for run in listed if run["state"] == "failed"]
    lines += [f"failed: {run['fold']}, {run['method']}, seed {run['seed']}: {_failure(run)}" for run in failed]
    return "\n".join(lines)


def _failure(run: dict[str, Any]) -> str:
    return Record(run["error"], None, run["remedy"]).failure


def _count(listed: Sequence[dict[str, Any]], state: str) -> int:
    return sum(run["state"] == state for run in listed)


def _seeds_by_state(runs: Sequence[dict[str, Any]]) -> str:
    seeds = {state: [str(run["seed"]) for run in runs if run["state"] == state] for state in STATES}
    return "; ".join(f"{state} seed {', '.join(found)}" for state, found in seeds.items() if found)
