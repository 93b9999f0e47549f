"""`wbc-server start`: the processes of a federation, kept alive until the study has come to its end.

SuperLink (loopback, node authentication, process isolation, SQLite), SuperExec (starts the ServerApp) and the gateway
are separate processes, judged by whether they answer. Flower resumes no ServerApp: when it is gone and the study is not
finished, its run is submitted again and goes on from the journal. The ServerApp holds a lock on the run's folder, so
that its death is seen at once and no two of them write.
"""

import json
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from wbc_common.errors import WbcError, error_of_kind
from wbc_common.files import write_atomically
from wbc_common.processes import KeptProcess
from wbc_server.exchange.deployment import Deployment, events_file, forget_failure, is_locked, read_failure
from wbc_server.link.flower import FlowerControl, FlowerUnreachable, Node
from wbc_server.link.folder import StudyFolder
from wbc_server.link.register import Enrolment, changing, edition, read_register, write_register

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5
_APP_STARTS_WITHIN_SECONDS = 120.0
_APP_ENDS_WITHIN_SECONDS = 15.0
_ASK_SECONDS = 3.0
_MOST_SUBMISSIONS = 100
_FLOWER_STARTS_WITHIN_SECONDS = 30.0
_REMIND_SECONDS = 60.0


@dataclass
class Coordinator:
    """One study's federation while it runs.

    Attributes:
        folder: the study's.
        kept: SuperLink, SuperExec and gateway.
        flower: what is asked of the SuperLink.
        deployment: tells the ServerApp which node is which clinic.
        say: takes each event of the study, a line each.
        app: the folder that Flower bundles.
    """

    folder: StudyFolder
    kept: list[KeptProcess]
    flower: FlowerControl
    deployment: Deployment
    say: Callable[[str], None]
    app: Path
    run_id: int | None = None
    submissions: int = 0
    _submitted_at: float = 0.0
    _asked_at: float = 0.0
    _app_was_seen: bool = False
    _register_seen: tuple[int, ...] | None = None
    _unreachable_since: float | None = None
    _warned_at: float = 0.0
    _told_bytes: int = 0

    def work(self) -> None:
        """Look after everything until the study is finished.

        Raises:
            WbcError: the ServerApp gave up, with its reason; or it would not start.
        """
        self._note_state()
        self._pass_over_earlier_events()
        while not self.folder.run.is_finished:
            for process in self.kept:
                process.look()
            self._look_after_flower()
            self._tell_events()
            time.sleep(_LOOK_SECONDS)
        self._tell_events()
        self._await_app_end()

    def end(self) -> None:
        """End the ServerApp and all processes; what is in the journal stays."""
        for process in reversed(self.kept):
            process.end()
        self.folder.state_file.unlink(missing_ok=True)

    def _look_after_flower(self) -> None:
        """Tell Flower what has changed and see to the run; while Flower does not answer, wait, and say so."""
        try:
            self._tell_flower()
            self._look_after_run()
            self._unreachable_since = None
        except FlowerUnreachable as error:
            self._warn(error)

    def _warn(self, error: FlowerUnreachable) -> None:
        """Say that Flower does not do what it is asked, once it should have started, and again each minute."""
        now = time.monotonic()
        if self._unreachable_since is None:
            self._unreachable_since = now
            self._warned_at = now - _REMIND_SECONDS
        lasted = now - self._unreachable_since
        if lasted >= _FLOWER_STARTS_WITHIN_SECONDS and now - self._warned_at >= _REMIND_SECONDS:
            log.warning("asked in vain for %.0f s, asking on: %s", lasted, " ".join(str(error).split()))
            self._warned_at = now

    def _tell_flower(self) -> None:
        """Make Flower's list of nodes what the register says, whenever the register has changed."""
        if edition(self.folder.register_file) != self._register_seen:
            self._synchronise()

    def _synchronise(self) -> None:
        """As above; whatever ends this half-way, the next time goes on from what Flower and the register have."""
        path = self.folder.register_file
        with changing(path):
            nodes = self.flower.nodes()
            for entry in read_register(path).enrolments:
                self._tell_of(entry, nodes.get(entry.pem))
            active = read_register(path).active().values()
            self.deployment.write({entry.node_id: entry.clinic for entry in active if entry.node_id is not None})
            self._register_seen = edition(path)  # under the lock: a command that waits for it has not written yet

    def _tell_of(self, entry: Enrolment, node: Node | None) -> None:
        if entry.is_active and node is None:
            self._keep_number(entry, self.flower.register(entry.pem, entry.clinic))
            self.say(f"clinic {entry.clinic} may connect")
        elif entry.is_active and node is not None and node.is_registered:
            self._keep_number(entry, node.number)
        elif entry.is_active:
            self.say(
                f"Flower has removed the key of clinic {entry.clinic} for good; next step: have the clinic make a new "
                "one (wbc-client init), then wbc-server enrol … --replace"
            )
        elif node is not None and node.is_registered:
            self.flower.unregister(node.number)
            self.say(f"the revoked key of clinic {entry.clinic} is removed")

    def _keep_number(self, entry: Enrolment, node_id: int) -> None:
        """Write Flower's number for a key down before the next key is told."""
        path = self.folder.register_file
        if node_id != entry.node_id:
            write_register(path, read_register(path).with_node(entry.fingerprint, node_id))

    def _look_after_run(self) -> None:
        """Submit the study's run, and again when its ServerApp is gone."""
        if self._register_seen is None or self.folder.run.is_finished:
            return
        if is_locked(self.folder.run):
            self._app_was_seen = True
        elif self.run_id is None or self._app_was_seen or self._start_failed(self.run_id):
            self._raise_failure()
            self._submit()

    def _start_failed(self, run_id: int) -> bool:
        """Whether a submitted run will not come to life any more."""
        if time.monotonic() - self._submitted_at > _APP_STARTS_WITHIN_SECONDS:
            return True
        if time.monotonic() - self._asked_at < _ASK_SECONDS:
            return False
        self._asked_at = time.monotonic()
        return self.flower.has_finished(run_id)

    def _submit(self) -> None:
        if self.submissions >= _MOST_SUBMISSIONS:
            raise WbcError(
                f"the ServerApp ended {self.submissions} times without finishing the study",
                remedy="see link/superexec.log in the study's folder",
            )
        if self.run_id is not None:
            self.say("the ServerApp is gone; the study goes on from its last round")
            with suppress(FlowerUnreachable):  # it may have ended by itself
                self.flower.stop(self.run_id)
        forget_failure(self.folder.run)
        self.run_id = self.flower.submit(self.app)
        self.submissions += 1
        self._submitted_at, self._app_was_seen = time.monotonic(), False
        self._note_state()

    def _raise_failure(self) -> None:
        """Raise what the ServerApp gave up with, if it said so since it was submitted."""
        reason = read_failure(self.folder.run) if self._app_was_seen or self.run_id is not None else None
        if reason is not None:
            raise error_of_kind(reason["kind"], reason["problem"], reason["remedy"])

    def _pass_over_earlier_events(self) -> None:
        """Events of before this start were told by an earlier one."""
        path = events_file(self.folder.run)
        self._told_bytes = path.stat().st_size if path.exists() else 0

    def _tell_events(self) -> None:
        """Tell the lines that were written whole since the last time."""
        path = events_file(self.folder.run)
        if not path.exists() or path.stat().st_size <= self._told_bytes:
            return
        with path.open("rb") as file:
            file.seek(self._told_bytes)
            whole, end, _ = file.read().rpartition(b"\n")
        for line in whole.decode(errors="replace").splitlines():
            self.say(line)
        self._told_bytes += len(whole + end)

    def _await_app_end(self) -> None:
        end = time.monotonic() + _APP_ENDS_WITHIN_SECONDS
        while is_locked(self.folder.run) and time.monotonic() < end:
            time.sleep(_LOOK_SECONDS)

    def _note_state(self) -> None:
        state = {
            "process": os.getpid(),
            "run": None if self.run_id is None else str(self.run_id),
            "submissions": self.submissions,
            "processes": {process.command.name: process.starts for process in self.kept},
        }
        write_atomically(self.folder.state_file, json.dumps(state, indent=1).encode())
