"""`wbc-client start`: the processes of a clinic's node, kept alive until the command is ended.

Resident trainer, Flower's SuperNode (the one outbound connection), its SuperExec (asks for a `flwr-clientapp` for each
message) and the starter that forks it, with the bundle check in front. Whether the node serves is judged by asking the
coordinator with its key, not by exit codes: a SuperNode that was refused leaves with code 0. And by the trainer's own
mark that it serves: until then it may decode cells for minutes, or end again and again on a path that is not there.
"""

import logging
import os
import secrets
import shutil
import socket
import stat
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from wbc_client.node import guard, starter, trainer
from wbc_client.node.approval import check_approved
from wbc_client.node.connection import say_hello
from wbc_client.node.guard import guarded_path, write_launcher
from wbc_client.node.health import State, StateFile, state_path, trainer_log
from wbc_client.node.step import StepWatch
from wbc_client.node.trainer import BUSY_NAME, READY_NAME, private_socket, remove_marks
from wbc_client.site import Site
from wbc_common.bundle import Bundle, build_bundle
from wbc_common.errors import ConnectionFailure, WbcError
from wbc_common.files import write_secret
from wbc_common.keys import read_private_key
from wbc_common.processes import Command, KeptProcess, flower_command, flower_environment

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5
_ASK_SECONDS, _ASK_SECONDS_WHILE_REFUSED = 30.0, 3.0


@dataclass
class Node:
    """A clinic's node while it runs."""

    site: Site
    trainer: KeptProcess
    kept: list[KeptProcess]
    socket: Path
    state: StateFile
    _ready_start: int = 0
    _asked_at: float = -_ASK_SECONDS
    _registered: bool = False
    _told: str = ""

    @property
    def is_registered(self) -> bool:
        """Whether the coordinator knew this clinic's key when it was last asked; a refused SuperNode need not start."""
        pause = _ASK_SECONDS if self._registered else _ASK_SECONDS_WHILE_REFUSED
        if time.monotonic() - self._asked_at >= pause:
            self._asked_at = time.monotonic()
            self._registered = self._ask()
        return self._registered

    def work(self) -> None:
        """Look after the processes until interrupted."""
        while True:
            self.look()
            time.sleep(_LOOK_SECONDS)

    def look(self) -> None:
        """Look after each process once, and note how the node is."""
        for process in self.kept:
            process.look()
        if not self.trainer.runs:
            remove_marks(self.socket)
        self._note_state()

    def end(self) -> None:
        """End all processes; the SuperNode takes its leave from the coordinator."""
        for process in reversed(self.kept):
            process.end()
        shutil.rmtree(self.socket.parent, ignore_errors=True)
        self.state.path.unlink(missing_ok=True)

    def _note_state(self) -> None:
        state = self._look_at_state()
        if self.state.note(state):
            log.info("clinic %s: %s", self.site.clinic, state)

    def _look_at_state(self) -> State:
        if not self.is_registered:
            return "up"
        try:
            check_approved(self.site)
        except WbcError:
            return "registered"
        if not self._trainer_serves:
            return "opening" if self.trainer.last_code is None else "failing"
        return "training" if self.socket.with_name(BUSY_NAME).exists() else "approved"

    @property
    def _trainer_serves(self) -> bool:
        """Whether the trainer that runs has ever marked that it serves: a mark may go with an old file in /tmp."""
        if self.socket.with_name(READY_NAME).exists():
            self._ready_start = self.trainer.starts
        return self.trainer.runs and self._ready_start == self.trainer.starts

    def _ask(self) -> bool:
        try:
            say_hello(self.site.node())
        except ConnectionFailure as error:
            if error.problem != self._told:  # once, not every few seconds
                log.warning("%s; next step: %s", error.problem, error.remedy)
                self._told = error.problem
            return False
        self._told = ""
        return True


def prepare(clinic_file: Path, site: Site) -> Node:
    """A node of this clinic, ready to work.

    Raises:
        SettingError, PolicyError: the key is missing, the plan is not approved, or the launcher cannot be executed.
    """
    os.umask(0o077)  # whatever node and trainer write is their owner's alone
    read_private_key(site.node().key)
    check_approved(site)
    folder = site.state_dir / "node"
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)  # also what an earlier version left in it
    home = folder / "flower"
    bundle = build_bundle(folder / "bundle", flower_environment(home))
    install_bundle(bundle, home)
    secret = folder / "private" / "superexec.secret"
    write_secret(secret, secrets.token_bytes(32))
    socket_path, port = private_socket(), _free_port()
    starter_path = socket_path.with_name("starter")
    environment = flower_environment(
        home,
        **{
            trainer.SOCKET_VARIABLE: str(socket_path),
            starter.SOCKET_VARIABLE: str(starter_path),
            guard.BUNDLE_VARIABLE: bundle.sha256,
            guard.NODE_VARIABLE: str(os.getpid()),
        },
    )
    guarded = {**environment, "PATH": guarded_path(write_launcher(folder / "bin"), environment["PATH"])}
    resident = KeptProcess(_trainer(site, clinic_file, socket_path, environment))
    node = Node(site, resident, [resident], socket_path, StateFile(state_path(site)))
    supernode = _supernode(site, port, secret, environment, folder)
    node.kept += [
        KeptProcess(_starter(starter_path, environment, folder)),
        KeptProcess(replace(supernode, may_start=lambda: node.is_registered)),
        KeptProcess(_superexec(port, secret, guarded, folder)),
    ]
    return node


def install_bundle(bundle: Bundle, home: Path) -> None:
    """Put the approved bundle, and no other, where Flower looks for apps, and take the right to write there.

    Raises:
        WbcError: Flower could not install it.
    """
    apps = home / "apps"
    if apps.exists():
        _set_writable(apps, writable=True)
        shutil.rmtree(apps)
    done = subprocess.run(
        [flower_command("flwr"), "install", str(bundle.path)],
        env=flower_environment(home),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise WbcError(
            f"Flower could not install the app's bundle: {done.stdout}{done.stderr}", remedy="reinstall wbc-fl"
        )
    _set_writable(apps, writable=False)


def _set_writable(folder: Path, *, writable: bool) -> None:
    for path in [folder, *folder.rglob("*")]:
        mode = path.stat().st_mode
        path.chmod(mode | stat.S_IWUSR if writable else mode & ~0o222)


def _trainer(site: Site, clinic_file: Path, socket_path: Path, environment: dict[str, str]) -> Command:
    arguments = [sys.executable, "-m", "wbc_client.node.trainer", str(clinic_file.resolve()), str(socket_path)]
    return Command("trainer", arguments, environment, trainer_log(site))


def _starter(starter_path: Path, environment: dict[str, str], folder: Path) -> Command:
    arguments = [sys.executable, "-m", "wbc_client.node.starter", str(starter_path)]
    return Command("starter", arguments, environment, folder / "starter.log")


def _supernode(site: Site, port: int, secret: Path, environment: dict[str, str], folder: Path) -> Command:
    coordinator = site.node()
    arguments = [
        flower_command("flower-supernode"),
        *("--superlink", coordinator.address, "--root-certificates", str(coordinator.ca)),
        *("--auth-supernode-private-key", str(coordinator.key)),
        *("--isolation", "process", "--superexec-auth-secret-file", str(secret)),
        *("--host", "127.0.0.1", "--port", str(port)),
    ]
    log_path = folder / "supernode.log"
    watch = StepWatch(log_path, log_path.stat().st_size if log_path.exists() else 0)
    return Command("supernode", arguments, environment, log_path, healthy=watch.in_step, patience_seconds=0.0)


def _superexec(port: int, secret: Path, environment: dict[str, str], folder: Path) -> Command:
    arguments = [
        flower_command("flower-superexec"),
        *("--runtime-api-address", f"127.0.0.1:{port}", "--insecure"),
        *("--superexec-auth-secret-file", str(secret)),
    ]
    return Command("superexec", arguments, environment, folder / "superexec.log")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
