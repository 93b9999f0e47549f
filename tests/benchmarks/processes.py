"""Running a command and watching it: wall time, output, and peak memory of its processes from Linux' /proc."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from family import family

_EVERY_SECONDS = 0.1


@dataclass(frozen=True)
class Watched:
    """A finished command: wall and CPU seconds, what it printed, and peaks in MB (largest process; all together).

    CPU seconds are those of the command and of processes that it waited for; Ray's are not among them.
    """

    seconds: float
    cpu_seconds: float
    output: str
    largest_mb: float
    together_mb: float


class CommandFailed(Exception):
    """A command that failed, or did not end in time; says which and what it wrote."""


def watch(command: Sequence[str], environment: dict[str, str], limit_seconds: float | None = None) -> Watched:
    """Run a command to its end.

    Raises:
        CommandFailed: it failed, or was ended with all its processes after `limit_seconds`.
    """
    started, cpu_before = time.perf_counter(), _cpu_of_children()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    peaks = [0.0, 0.0]
    over = threading.Event()
    watcher = threading.Thread(target=_watch_memory, args=(process.pid, peaks, over))
    watcher.start()
    try:
        output, errors = process.communicate(timeout=limit_seconds)
    except subprocess.TimeoutExpired:
        for pid in family(process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        output, errors = "", f"did not end within {limit_seconds:g} s"
        process.communicate()
    seconds = time.perf_counter() - started
    over.set()
    watcher.join()
    if process.returncode:
        raise CommandFailed(f"{' '.join(command)} failed:\n{errors}")
    return Watched(seconds, _cpu_of_children() - cpu_before, output, peaks[0], peaks[1])


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _watch_memory(root: int, peaks: list[float], over: threading.Event) -> None:
    while not over.wait(_EVERY_SECONDS):
        # Pss shares what processes have in common among them, so that a sum counts it once.
        sizes = [size for pid in family(root) if (size := memory_mb(pid))]
        peaks[0] = max(peaks[0], *sizes, 0.0)
        peaks[1] = max(peaks[1], sum(sizes))


def memory_mb(pid: int) -> float:
    """Memory of a process, with its part of what it shares; 0 if it is gone."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith("Pss:")), 0.0)


def resident_mb(pid: int) -> tuple[float, float]:
    """The most memory that a process ever had, and what it has now, with all of what it shares; 0 if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0, 0.0
    said = dict(line.split(":", 1) for line in lines)
    peak, now = (float(said.get(name, "0 kB").split()[0]) / 1024 for name in ("VmHWM", "VmRSS"))
    return peak, now
