"""Processes that a command keeps alive: started with their own log, judged by health, restarted, ended with their kin.

Flower's SuperNode leaves with code 0 when its key is refused, so an exit code says nothing: whatever a process of ours
exits with, it is started again until the command itself ends, after a pause that doubles up to ten seconds. A process
that runs and answers no health question for a while is ended and started again, too; one that has not answered yet gets
five times as long, as a busy machine starts it slowly, and more slowly if that is done again and again. Each process
leads a group of its own, so that what it started ends with it, and on Linux the kernel ends it if the command itself is
killed. Logs may name patients' files: only their owner reads them, whatever the umask.
"""

import ctypes
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

_LONGEST_PAUSE_SECONDS = 10.0
_START_TAKES_LONGER = 5  # times a command's patience
_STEADY_SECONDS = 60.0  # a process that ran so long starts again without a pause
_STOP_SECONDS = 10.0
_LONGEST_LOG_BYTES = 20_000_000
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Command:
    """A process to keep alive.

    Attributes:
        name: what logs call it.
        arguments: the command line.
        environment: of the process, whole.
        log: file that gets its output.
        may_start: whether it makes sense to start it now; asked while it does not run.
        healthy: whether the running process answers.
        patience_seconds: how long it may be unhealthy before it is ended and started again, five times that where it
            was not healthy yet; asked ten times in it.
    """

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    may_start: Callable[[], bool] = lambda: True
    healthy: Callable[[], bool] = lambda: True
    patience_seconds: float = 60.0


@dataclass
class KeptProcess:
    """A command and its process of the moment.

    Attributes:
        command: the command.
        process: its process; None before it starts and between two.
        starts: how often it was started.
        last_code: what it last ended with by itself; None if it never did.
    """

    command: Command
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0
    last_code: int | None = None
    _pause_seconds: float = 0.5
    _started_at: float = 0.0
    _start_at: float = 0.0
    _healthy_at: float = 0.0
    _was_healthy: bool = False
    _asked_at: float = 0.0

    @property
    def runs(self) -> bool:
        """Whether there is a process now."""
        return self.process is not None and self.process.poll() is None

    def look(self) -> None:
        """Start what does not run, end what is not healthy."""
        now = time.monotonic()
        if self.runs:
            self._check_health(now)
            _cap(self.command.log)
            return
        if self.process is not None:
            self._bury(now)
        if now >= self._start_at and self.command.may_start():
            self._start(now)

    def end(self) -> None:
        """End the process and its kin: first asked, then killed."""
        if self.process is not None:
            end_group(self.process)
            self.process = None

    def _start(self, now: float) -> None:
        self.process = spawn(self.command)
        self.starts += 1
        self._started_at = self._healthy_at = now
        self._was_healthy = False
        log.info("%s started (process %d)", self.command.name, self.process.pid)

    def _bury(self, now: float) -> None:
        assert self.process is not None
        self.last_code = self.process.returncode
        end_group(self.process)
        self.process = None
        self._wait_from(now)
        log.warning(
            "%s ended with code %s, starts again in %.0f s; its log is %s",
            self.command.name,
            self.last_code,
            self._pause_seconds,
            self.command.log,
        )

    def _check_health(self, now: float) -> None:
        if now - self._asked_at < self.command.patience_seconds / 10:
            return
        self._asked_at = now
        patience = self.command.patience_seconds * (1 if self._was_healthy else _START_TAKES_LONGER)
        if self.command.healthy():
            self._healthy_at, self._was_healthy = now, True
        elif now - self._healthy_at > patience:
            log.warning("%s is not well; it is ended and started again", self.command.name)
            self.end()
            self._wait_from(now)

    def _wait_from(self, now: float) -> None:
        """Set the time of the next start: soon after a steady process, later each time after others."""
        steady = now - self._started_at > _STEADY_SECONDS
        self._pause_seconds = 0.5 if steady else min(self._pause_seconds * 2, _LONGEST_PAUSE_SECONDS)
        self._start_at = now + self._pause_seconds


def spawn(command: Command) -> "subprocess.Popen[bytes]":
    """Start a process that leads a group of its own and writes to its log."""
    command.log.parent.mkdir(parents=True, exist_ok=True)
    with open(command.log, "ab", opener=_open_private) as output:
        return subprocess.Popen(
            list(command.arguments),
            env=dict(command.environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )


def _open_private(path: str, flags: int) -> int:
    """Open a file that only its owner reads, also one that an earlier version left to others."""
    file = os.open(path, flags, 0o600)
    os.fchmod(file, 0o600)
    return file


def _cap(path: Path) -> None:
    """Keep the last part of a log that has grown large as LOG.1, and begin again in the same file."""
    with suppress(FileNotFoundError):  # someone put it aside
        if path.stat().st_size > _LONGEST_LOG_BYTES:
            with path.open("rb") as grown, open(f"{path}.1", "wb", opener=_open_private) as aside:
                shutil.copyfileobj(grown, aside)
            os.truncate(path, 0)


def end_group(process: "subprocess.Popen[bytes]") -> None:
    """End a process and everything in its group; waits a while, then kills."""
    _signal_group(process.pid, signal.SIGTERM)
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        log.warning("process %d does not end and is killed", process.pid)
    _signal_group(process.pid, signal.SIGKILL)
    process.wait()


def flower_environment(flower_home: Path, **extra: str) -> dict[str, str]:
    """Environment of Flower's processes: silent, with its own home, our commands first on PATH, loopback unproxied."""
    beside = str(Path(sys.executable).parent)
    named = [os.environ.get("NO_PROXY"), os.environ.get("no_proxy")]  # some programs read the one, some the other
    unproxied = ",".join([*filter(None, named), "127.0.0.1,localhost"])
    return {
        **os.environ,
        "PATH": os.pathsep.join([beside, os.environ.get("PATH", os.defpath)]),
        "PYTHONUNBUFFERED": "1",
        "FLWR_HOME": str(flower_home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
        "NO_PROXY": unproxied,
        "no_proxy": unproxied,
        **extra,
    }


def flower_command(name: str) -> str:
    """Path of one of Flower's commands, which are installed beside the interpreter."""
    return str(Path(sys.executable).with_name(name))


def die_with_parent() -> None:
    """Have the kernel end this process when its parent is gone, whatever ended that; on Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _signal_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return
