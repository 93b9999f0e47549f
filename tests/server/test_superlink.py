"""The SuperLink's state waits for its lock as long as a node waits for an answer."""

from pathlib import Path

import pytest
from flwr.supercore import sql_mixin
from flwr.supercore.constant import SQLITE_PRAGMAS
from flwr.supercore.object_store.sql_object_store import SqlObjectStore
from sqlalchemy import text

from wbc_server.link import superlink


def test_flowers_command_runs_with_these_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}

    def flowers_command() -> None:
        store = SqlObjectStore(str(tmp_path / "link.db"))
        store.initialize()
        with store.session() as session:
            for name in ("busy_timeout", "synchronous", "journal_mode", "foreign_keys"):
                seen[name] = session.execute(text(f"PRAGMA {name}")).scalar()

    monkeypatch.setattr(sql_mixin, "SQLITE_PRAGMAS", SQLITE_PRAGMAS)  # put back after the test
    monkeypatch.setattr(superlink, "flower_superlink", flowers_command)
    superlink.main()
    assert seen == {"busy_timeout": 25000, "synchronous": 1, "journal_mode": "wal", "foreign_keys": 1}
