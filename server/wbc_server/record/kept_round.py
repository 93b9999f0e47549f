"""The record of a round that is kept and waits for the figures of its model: a file of its own, replaced whole.

With its checksum in it, so that a damaged file is detected and never gone on from.
"""

import hashlib
import json
from pathlib import Path

from wbc_common.errors import DataError
from wbc_server.record.checkpoints import replace_atomically
from wbc_server.record.journal import Record, as_line


def write_kept(path: Path, record: Record) -> None:
    """Make the file hold this round, durably; WbcError if it cannot be written, and the round before is untouched."""
    line = as_line(record)
    replace_atomically(path, [as_line({"sha256": hashlib.sha256(line).hexdigest(), "record": json.loads(line)})])


def read_kept(path: Path, after: int) -> Record | None:
    """The record of the round that waits; None where no round is kept, or none later than `after`.

    Raises:
        DataError: the file cannot be read, or is not what was written.
    """
    try:
        content = json.loads(path.read_bytes())
        record: Record = content["record"]
        intact = hashlib.sha256(as_line(record)).hexdigest() == content["sha256"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(path) from error
    if not intact:
        raise _damaged(path)
    return record if record["round"] > after else None


def _damaged(path: Path) -> DataError:
    return DataError(
        f"{path} is damaged or cannot be read, expected the record of the last round with its checksum",
        remedy="restore it from a backup, or remove it to go on from the last line of the journal",
    )
