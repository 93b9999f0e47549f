"""The egress ledger: one line for everything that left this clinic, written on site.

A privacy officer reads it to say what left the house: when, in which round, which records, how many bytes. It holds
counts of bytes, never content.
"""

import json
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from wbc_common.errors import DataError

LEDGER_NAME = "egress.jsonl"


@dataclass(frozen=True)
class Departure:
    """One reply that left: the task it answers ("error" for a refusal), its round, bytes by record name, the plan."""

    task: str
    round_number: int
    records: dict[str, int]
    plan: str = ""

    @property
    def num_bytes(self) -> int:
        """All records together."""
        return sum(self.records.values())


def enter(folder: Path, departure: Departure) -> None:
    """Append a departure to the ledger, before the reply is handed over.

    Raises:
        OSError: the ledger cannot be written; nothing may leave then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    line = {"time": datetime.now(UTC).isoformat(timespec="seconds"), **asdict(departure), "bytes": departure.num_bytes}
    with (folder / LEDGER_NAME).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_departures(folder: Path) -> list[Departure]:
    """Everything the ledger of a clinic holds; nothing where nothing has left.

    Raises:
        DataError: naming the line that is damaged.
    """
    path = folder / LEDGER_NAME
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [_departure(path, number, line) for number, line in enumerate(lines, start=1)]


def _departure(path: Path, number: int, line: str) -> Departure:
    try:
        values = json.loads(line)
        return Departure(values["task"], values["round_number"], values["records"], values.get("plan", ""))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"ledger {path}, line {number} is damaged (a disk that was full, or an edit)",
            remedy="look at that line; move the file away to begin a new ledger",
        ) from error
