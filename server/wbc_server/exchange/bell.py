"""A bell between two processes of the coordinator: a file whose time changes when something is there.

The ServerApp rings when tasks wait for clinics, the gateway when a clinic's reply has come. Each looks at the other's
bell for the price of a `stat`, and asks the SuperLink only then, or once in a while in case a ring was missed.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Bell:
    """A bell at a path; one that nobody has rung has time 0."""

    path: Path

    def ring(self) -> None:
        """Let the other side know."""
        self.path.touch()

    def last(self) -> int:
        """When it was last rung, in nanoseconds."""
        try:
            return self.path.stat().st_mtime_ns
        except OSError:
            return 0
