"""A bell between two processes of the coordinator: a file whose time changes when something is there.

The ServerApp rings when tasks wait for clinics; the gateway looks at the bell for the price of a `stat`. Each ring is
later than the one before, whatever the clock does, so that a time also says which tasks it stands for.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

_COARSEST_NS = 2_000_000_000  # in which a file system keeps times, at the worst


@dataclass(frozen=True)
class Bell:
    """A bell at a path; one that nobody has rung has time 0."""

    path: Path

    def ring(self) -> int:
        """Let the other side know; returns the time, in nanoseconds."""
        before = self.last()
        self.set(max(time.time_ns(), before + 1))
        if self.last() <= before:
            self.set(before + _COARSEST_NS)
        return self.last()

    def set(self, rung: int) -> None:
        """Give this bell the time of a ring of another."""
        if not self.path.exists():
            self.path.touch()
        os.utime(self.path, ns=(rung, rung))

    def last(self) -> int:
        """When it was last rung, in nanoseconds."""
        try:
            return self.path.stat().st_mtime_ns
        except OSError:
            return 0
