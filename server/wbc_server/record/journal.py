"""The journal of a run, `rounds.jsonl`: one JSON object a line, one line a round, on disk before the next round.

A crash while a line is written leaves a torn last line. Reading drops it with a warning, and the next append repairs
the file first, so nothing that was once complete is lost. A damaged line before the last one is no crash but a damaged
file, and stops the run. JSON knows no NaN: numbers that are not finite become null. There is one writer.
"""

import json
import logging
import math
import os
from collections.abc import Iterator
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from wbc_common.errors import DataError
from wbc_server.record.checkpoints import cannot_write, replace_atomically

log = logging.getLogger(__name__)

Record = dict[str, Any]

_BLOCK = 1 << 16  # bytes read at a time from the end of the file


def append(path: Path, record: Record) -> None:
    """Add one record; it is on disk when this returns.

    Args:
        path: the journal; made, with its folder, if it does not exist.
        record: JSON values, also numpy's numbers and arrays.

    Raises:
        WbcError: it cannot be written; the records before it are intact.
    """
    line = as_line(record)
    try:
        if not path.exists():
            replace_atomically(path, [])
        _repair_tail(path)
        with open(path, "ab", buffering=0) as file:
            _write_or_undo(file, line)
    except OSError as error:
        raise cannot_write(path, error) from error


def as_line(record: Record) -> bytes:
    """A record as the journal writes it."""
    return json.dumps(_finite(record), allow_nan=False, separators=(",", ":")).encode() + b"\n"


def read(path: Path) -> list[Record]:
    """All complete records, first to last; none when there is no journal yet. Raises as `scan`."""
    return list(scan(path))


def scan(path: Path) -> Iterator[Record]:
    """The complete records one by one, so that a long journal of many clinics need not be in memory parsed.

    Raises:
        DataError: the file cannot be read, or a line before the last one is damaged.
    """
    try:
        lines = path.read_bytes().removesuffix(b"\n").split(b"\n")
    except FileNotFoundError:
        return
    except OSError as error:
        raise DataError(f"cannot read journal {path}: {error.strerror}", remedy="check its rights") from error
    for number, line in enumerate(lines, start=1):
        record = _parse(line)
        if record is not None:
            yield record
        elif number < len(lines):
            raise DataError(
                f"line {number} of {len(lines)} of journal {path} is damaged, expected one JSON object a line",
                remedy="restore the journal from a backup, or cut it off before that line to resume from there",
            )
        elif line:
            log.warning("journal %s: last line (%d) is incomplete and dropped", path, number)


def _parse(line: bytes) -> Record | None:
    """The JSON object in a line, or None."""
    try:
        record = json.loads(line.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _repair_tail(path: Path) -> None:
    """Take off a torn last line, and end a whole one that lacks its newline."""
    tail = _last_line(path)
    whole = _parse(tail) is not None
    if not tail or (whole and tail.endswith(b"\n")):
        return
    content = path.read_bytes()
    replace_atomically(path, [content + b"\n" if whole else content[: len(content) - len(tail)]])


def _last_line(path: Path) -> bytes:
    """The bytes after the last newline but a final one, read from the end: a journal grows, an append must not."""
    tail = b""
    with open(path, "rb") as file:
        start = file.seek(0, os.SEEK_END)
        while start > 0:
            size = min(_BLOCK, start)
            start = file.seek(start - size)
            tail = file.read(size) + tail
            newline = tail.rfind(b"\n", 0, len(tail) - 1)
            if newline >= 0:
                return tail[newline + 1 :]
    return tail


def _write_or_undo(file: FileIO, line: bytes) -> None:
    """Write and fsync a whole line; on failure take back the part that was written."""
    size_before = file.seek(0, os.SEEK_END)
    try:
        rest = memoryview(line)
        while rest:
            rest = rest[file.write(rest) :]
        os.fsync(file.fileno())
    except OSError:
        with suppress(OSError):  # if this fails too, the next append repairs the tail
            file.truncate(size_before)
        raise


def _finite(value: Any) -> Any:
    """JSON values with None in place of NaN and infinities; numpy's numbers and arrays become Python's."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
