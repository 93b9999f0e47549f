"""The egress ledger: one line for everything that left this clinic, written on site.

A privacy officer reads it to say what left the house: when, in which round, which records, how many bytes. It holds
counts of bytes, never content.
"""

import json
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

LEDGER_NAME = "egress.jsonl"


@dataclass(frozen=True)
class Departure:
    """One reply that left: the task it answers, its round, and bytes by record name."""

    task: str
    round_number: int
    records: dict[str, int]

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
    """Everything the ledger of a clinic holds; nothing where nothing has left."""
    path = folder / LEDGER_NAME
    if not path.exists():
        return []
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [Departure(line["task"], line["round_number"], line["records"]) for line in lines]
