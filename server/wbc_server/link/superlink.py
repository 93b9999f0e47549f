"""Flower's SuperLink, with a state that takes many clinics at once: `python -m wbc_server.link.superlink FLAGS`.

Flower opens its SQLite state so that a writer gives up after 5 s without the lock. With many clinics answering in the
same seconds on a busy machine writers starve, and nodes and ServerApp see errors. Here a writer waits nearly as long as
a node waits for its answer, and freed memory goes back to the system.

Flower makes the tables of a new state in many steps, each of which is kept at once. Ended half-way, it finds a table
that it is about to make, and never starts again. So a new state is made in a folder beside its place, and moved there
when it is whole. Nothing else of Flower is changed.
"""

import argparse
import shutil
from pathlib import Path

from flwr.supercore import sql_mixin
from flwr.supercore.constant import SQLITE_PRAGMAS
from flwr.supercore.state.alembic.utils import run_migrations
from flwr.superlink.cli import flower_superlink
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from wbc_common.files import sync_folder
from wbc_common.memory import hand_back_freed_memory

_WAIT_MS = 25_000  # for the lock of the state; a node gives up on an answer after 30 s


def main() -> None:
    """Run Flower's own command with a patient state that is whole."""
    hand_back_freed_memory()
    options = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    options.add_argument("--database", type=Path)
    state = options.parse_known_args()[0].database
    if state is not None and not state.exists():
        make_state(state)
    patient = dict(SQLITE_PRAGMAS) | {"busy_timeout": str(_WAIT_MS)}
    sql_mixin.SQLITE_PRAGMAS = tuple(patient.items())  # type: ignore[attr-defined,assignment]
    flower_superlink()


def make_state(state: Path) -> None:
    """Make a new SQLite state with all of Flower's tables; ended half-way, there is none."""
    place = state.with_name(f"{state.name}.new")
    shutil.rmtree(
        place, ignore_errors=True
    )  # of a start that was ended: a journal in it would be taken for the new one's
    place.mkdir()
    fresh = place.resolve() / state.name
    run_migrations(create_engine(f"sqlite:///{fresh}", poolclass=NullPool))  # a connection closes after its use
    fresh.replace(state)
    place.rmdir()
    sync_folder(state.parent)


if __name__ == "__main__":
    main()
