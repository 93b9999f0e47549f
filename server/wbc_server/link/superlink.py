"""Flower's SuperLink, with a state that takes many clinics at once: `python -m wbc_server.link.superlink FLAGS`.

Flower opens its SQLite state so that a writer gives up after 5 s without the lock. With many clinics answering in the
same seconds on a busy machine writers starve, and nodes and ServerApp see errors. Here a writer waits nearly as long as
a node waits for its answer, and freed memory goes back to the system. Nothing else of Flower is changed.
"""

from flwr.supercore import sql_mixin
from flwr.supercore.constant import SQLITE_PRAGMAS
from flwr.superlink.cli import flower_superlink

from wbc_common.memory import hand_back_freed_memory

_WAIT_MS = 25_000  # for the lock of the state; a node gives up on an answer after 30 s


def main() -> None:
    """Run Flower's own command with a patient state."""
    hand_back_freed_memory()
    patient = dict(SQLITE_PRAGMAS) | {"busy_timeout": str(_WAIT_MS)}
    sql_mixin.SQLITE_PRAGMAS = tuple(patient.items())  # type: ignore[attr-defined,assignment]
    flower_superlink()


if __name__ == "__main__":
    main()
