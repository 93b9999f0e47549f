"""The SuperLink's state waits for its lock as long as a node waits for an answer, and is made whole or not at all."""

import signal
import subprocess
import sys
import time
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


@pytest.mark.parametrize("named", [["--database", "{}"], ["--database={}"]])
def test_a_start_that_was_killed_among_its_tables_leaves_no_state_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: list[str]
) -> None:
    state, fresh = tmp_path / "link.db", tmp_path / "link.db.new" / "link.db"
    flags = [flag.format(state) for flag in named]
    begun = subprocess.Popen([sys.executable, "-m", "wbc_server.link.superlink", *flags])
    while not fresh.exists() or fresh.stat().st_size < 50_000:  # some of Flower's tables are there
        assert begun.poll() is None
        time.sleep(0.001)
    begun.send_signal(signal.SIGKILL)
    begun.wait()
    assert not state.exists()

    monkeypatch.setattr(superlink, "flower_superlink", lambda: None)
    monkeypatch.setattr(sys, "argv", ["superlink", *flags])
    superlink.main()
    assert [file.name for file in tmp_path.iterdir()] == ["link.db"]
    assert "object_children" in SqlObjectStore(str(state)).initialize()


def test_a_state_that_is_there_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = tmp_path / "link.db"
    state.write_bytes(b"of an earlier start")
    monkeypatch.setattr(superlink, "flower_superlink", lambda: None)
    monkeypatch.setattr(sys, "argv", ["superlink", "--database", str(state)])
    superlink.main()
    assert state.read_bytes() == b"of an earlier start"
