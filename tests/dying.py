"""Work for a sweep's workers that goes wrong on purpose; a module, because worker processes import it."""

import os
import signal
from pathlib import Path

from wbc_simulations.sweep.cells import Cell, Record


def die_on_east(cell: Cell, output: Path) -> Record:
    """Kill this very process where `east` is held out; leave a mark elsewhere."""
    if str(cell.fold) == "east":
        os.kill(os.getpid(), signal.SIGKILL)
    record = Record(None, 1.0)
    record.write(cell.folder(output))
    return record
