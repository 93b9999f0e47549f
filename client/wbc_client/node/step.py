"""A SuperNode that has fallen out of step, seen by its log.

Flower 1.41's SuperNode starts a ClientApp before it has all of a message. If the run ends, or the line breaks, in that
moment, it forgets the message but not the reply: from then on each reply waits for the next message to push it out, and
the coordinator waits for a reply that lies at the clinic. And where a proxy takes a connection and drops it, TLS fails,
which a SuperNode does not try again: it throws its reply away, or its heartbeats stop for ever while it seems to run.
So it is with any answer of a proxy that says that something failed and is not 502, 503 or 504, and when it hears that
it is not known. Only a new SuperNode process is in step again. It says so in its log, so that is where the node looks;
a contract test compares the words with Flower's.
"""

import os
from dataclasses import dataclass
from pathlib import Path

OUT_OF_STEP = (
    "status. Ignoring message",
    "Failed to receive message",
    "Failed to send message",
    "SSL/TLS handshake error detected",
    "Client error '",
    "Server error '",
    "Heartbeat failed unexpectedly",
)


@dataclass
class StepWatch:
    """Reads what was added to a log since the last look."""

    log: Path
    _read: int = 0

    def in_step(self) -> bool:
        """False once for each new line that tells of a forgotten message."""
        added = self._added()
        whole = added.rfind(b"\n") + 1  # a line that is being written waits for the next look
        self._read += whole
        return not any(words in added[:whole].decode(errors="replace") for words in OUT_OF_STEP)

    def _added(self) -> bytes:
        try:
            with self.log.open("rb") as file:
                if os.fstat(file.fileno()).st_size < self._read:  # the log was emptied
                    self._read = 0
                file.seek(self._read)
                return file.read()
        except FileNotFoundError:  # it was put aside; a new one is read from its beginning
            self._read = 0
            return b""
