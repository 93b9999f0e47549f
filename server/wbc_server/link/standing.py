"""Where a federation stands: what runs, who is enrolled, how far the study is; read from files alone."""

import json
import os
import signal
import time
from typing import Any

from wbc_common.errors import ConnectionFailure, SettingError, WbcError
from wbc_common.locks import is_held
from wbc_server.exchange.deployment import is_locked, read_failure
from wbc_server.link.certificates import days_left
from wbc_server.link.folder import StudyFolder
from wbc_server.link.register import read_register
from wbc_server.link.starting import gateway_answers
from wbc_server.record import journal
from wbc_server.record.kept_round import read_kept

_STOP_SECONDS = 40.0


def standing(folder: StudyFolder) -> dict[str, Any]:
    """What `wbc-server status --json` prints."""
    study = folder.study()
    state = read_state(folder)
    records = journal.read(folder.run.journal)
    waiting = read_kept(folder.run.kept_round, after=len(records))
    records += [waiting] if waiting is not None else []
    return {
        "study": study.name,
        "plan": study.hash,
        "coordinator": "running" if state else "stopped",
        "study_state": _study_state(folder, bool(state)),
        "processes": state.get("processes", {}) if state else {},
        "rounds_done": len(records),
        "rounds": study.rounds,
        "missing_in_last_round": records[-1]["missing"] if records else [],
        "enrolled": sorted(read_register(folder.register_file).active()),
        "certificate_days_left": round(days_left(folder.certificate), 1),
        "failure": None if state else read_failure(folder.run),
    }


def read_state(folder: StudyFolder) -> dict[str, Any]:
    """What the running coordinator wrote of itself; empty if none runs."""
    if not is_held(folder.lock_file):
        return {}
    try:
        state: dict[str, Any] = json.loads(folder.state_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return state


def check_runs(folder: StudyFolder) -> None:
    """For a service manager: that the coordinator runs and clinics can reach it.

    Raises:
        WbcError: no coordinator runs here.
        ConnectionFailure: it runs, and its gateway does not answer.
    """
    if not read_state(folder):
        raise WbcError(f"no coordinator runs in {folder.path}", remedy="start it: wbc-server start FOLDER")
    if not gateway_answers(folder):
        raise ConnectionFailure(
            f"the gateway does not answer on port {folder.settings().port}",
            remedy="wait, it is started again; if it stays away see link/gateway.log in the study's folder",
        )


def stop_coordinator(folder: StudyFolder) -> None:
    """End the coordinator that runs in this folder, and wait until it is gone.

    Raises:
        SettingError: none runs.
        WbcError: it does not end.
    """
    state = read_state(folder)
    if not state:
        raise SettingError(f"no coordinator runs in {folder.path}", remedy="start it: wbc-server start FOLDER")
    os.kill(state["process"], signal.SIGTERM)
    end = time.monotonic() + _STOP_SECONDS
    while read_state(folder):
        if time.monotonic() > end:
            raise WbcError(
                f"process {state['process']} does not end", remedy=f"end it by force: kill -9 {state['process']}"
            )
        time.sleep(0.2)


def _study_state(folder: StudyFolder, running: bool) -> str:
    if folder.run.is_finished:
        return "finished"
    if running:
        return "rounds are running" if is_locked(folder.run) else "waiting"
    return "interrupted" if folder.run.study_file.exists() else "not begun"
