"""What a ServerApp must know that runs between hospitals: who is who, and that it alone writes the run's folder.

It comes in the environment of the process that Flower starts, not in Flower's run config, which every clinic can read.
In a simulation there is none of it.
"""

import fcntl
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from wbc_common.errors import WbcError
from wbc_common.files import write_atomically
from wbc_common.locks import is_held
from wbc_server.exchange.bell import Bell
from wbc_server.run_folder import RUN_VARIABLE, RunFolder

_VARIABLE = "WBC_DEPLOYMENT"
_LOCK, _FAILURE, _EVENTS = "lock", "failure.json", "events.log"
_LOCK_SECONDS = 10.0


@dataclass(frozen=True)
class Deployment:
    """What coordinator, gateway and ServerApp share, in one folder."""

    folder: Path

    @property
    def nodes(self) -> Path:
        """Node number → clinic, written by the coordinator from its register."""
        return self.folder / "nodes.json"

    @property
    def tasks(self) -> Bell:
        """Rung by the ServerApp when tasks wait for clinics."""
        return Bell(self.folder / "tasks.bell")

    def idle(self, clinic: str) -> Bell:
        """Set by the gateway when a clinic's node asks for a task and none waits, to the ring it had heard before.

        A node asks when it has sent its answer, or has begun anew: it has none of the tasks rung until then in hand.
        """
        return Bell(self.folder / f"idle-{clinic}.bell")

    def clinics(self) -> dict[int, str]:
        """Node → the clinic whose key it has, as the register says now."""
        values: dict[str, str] = json.loads(self.nodes.read_text(encoding="utf-8"))
        return {int(node): clinic for node, clinic in values.items()}

    def write(self, clinics: Mapping[int, str]) -> None:
        """Say which node is which clinic."""
        write_atomically(self.nodes, json.dumps({str(node): clinic for node, clinic in clinics.items()}).encode())

    def variables(self, run: RunFolder) -> dict[str, str]:
        """Environment for the ServerApp."""
        return {_VARIABLE: str(self.folder), RUN_VARIABLE: str(run.path)}


def read_deployment() -> Deployment | None:
    """The deployment that this process was started in, or None in a simulation."""
    place = os.environ.get(_VARIABLE)
    return Deployment(Path(place)) if place else None


@contextmanager
def sole_writer(run: RunFolder) -> Iterator[None]:
    """Hold the run's lock, write events where a coordinator's console reads them, and keep the reason of a failure.

    Raises:
        WbcError: another ServerApp writes this run.
    """
    with (run.path / _LOCK).open("a") as lock:
        _take(lock)
        forget_failure(run)
        handler = logging.FileHandler(run.path / _EVENTS, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        events = logging.getLogger("wbc_server")
        events.setLevel(logging.INFO)
        events.addHandler(handler)
        try:
            yield
        except WbcError as error:
            reason = {"kind": error.kind, "problem": error.problem, "remedy": error.remedy, "code": error.exit_code}
            write_atomically(run.path / _FAILURE, json.dumps(reason).encode())
            raise
        finally:
            events.removeHandler(handler)
            handler.close()


def _take(lock: IO[str]) -> None:
    end = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() > end:
                raise WbcError("another ServerApp writes this run", remedy="wait for it, or stop it") from error
            time.sleep(0.1)


def is_locked(run: RunFolder) -> bool:
    """Whether a ServerApp writes this run now."""
    return is_held(run.path / _LOCK)


def read_failure(run: RunFolder) -> dict[str, object] | None:
    """Why the last ServerApp gave up, or None if it did not say."""
    try:
        values: dict[str, object] = json.loads((run.path / _FAILURE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return values


def forget_failure(run: RunFolder) -> None:
    """Begin anew: what an earlier ServerApp gave up with counts no more."""
    (run.path / _FAILURE).unlink(missing_ok=True)


def events_file(run: RunFolder) -> Path:
    """Where a ServerApp between hospitals writes its events, a line each."""
    return run.path / _EVENTS
