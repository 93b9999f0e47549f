"""`flwr-clientapp` as this clinic starts it: Flower's own, behind a check that the bundle is the approved one.

Flower unpacks any bundle that the coordinator sends and imports from it. Here the SHA-256 of the bundle's bytes is
compared with the one that this clinic built from its own installed version; another one is refused before a byte of it
is unpacked. Beside that, the folder of apps is not writable, which stops Flower's own unpacking where the node does
not run as root. The check stands in front of the name `install_from_fab` in Flower's module, the one private touch
point of the node; if an upgrade moves it, this fails and nothing runs.

Flower's SuperExec finds the command by its name on PATH, and where the first one cannot be executed it takes the next.
So no folder with another one is on its PATH: without the guard nothing is found and nothing runs.
"""

import hashlib
import os
import shutil
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from wbc_common.errors import PolicyError, SettingError

CLIENT_APP = "flwr-clientapp"
BUNDLE_VARIABLE = "WBC_APPROVED_BUNDLE"
NODE_VARIABLE = "WBC_NODE_PROCESS"
# Flower starts a ClientApp while its message is still coming in; one that asks too early waits for a whole second.
_MESSAGE_SECONDS = 0.2
_LOOK_SECONDS = 1.0
_LEAVE_SECONDS = 10.0  # to end by itself, once its node is gone
_UNPACKING = "install_from_fab"


def check_bundle(content: bytes, approved_sha256: str) -> None:
    """Refuse every bundle but the approved one.

    Raises:
        PolicyError: it is another one.
    """
    got = hashlib.sha256(content).hexdigest()
    if got != approved_sha256:
        raise PolicyError(
            f"bundle {got[:12]} is not the approved one ({approved_sha256[:12]})",
            remedy="install the coordinator's version of wbc-fl; if it is the same, ask what else was sent",
        )


def main() -> None:
    """Run Flower's `flwr-clientapp` with the check in place."""
    from flwr.supernode.cli import flwr_clientapp
    from flwr.supernode.runtime import run_clientapp

    _belong_to_node()
    time.sleep(_MESSAGE_SECONDS)
    unpack = getattr(run_clientapp, _UNPACKING)
    approved = os.environ[BUNDLE_VARIABLE]

    def install_approved(fab_file: Path | bytes, *arguments: Any, **options: Any) -> Path:
        check_bundle(fab_file if isinstance(fab_file, bytes) else fab_file.read_bytes(), approved)
        installed: Path = unpack(fab_file, *arguments, **options)
        return installed

    setattr(run_clientapp, _UNPACKING, install_approved)
    flwr_clientapp()


def _belong_to_node() -> None:
    """Live as long as the node, not as long as the process that started this one.

    A `flwr-clientapp` that is asked to end leaves its SuperNode waiting for a reply that never comes. So the end of a
    SuperExec or a starter must not reach it: it leads a group of its own and watches the node's process instead.
    Flower's watch raises a signal in its own thread, which does not wake a main thread that waits for a lock, and one
    that cannot reach its SuperNode any more waits for ever. So it is ended a while later.
    """
    with suppress(PermissionError):  # it leads a group already
        os.setsid()
    node = os.environ.get(NODE_VARIABLE)
    if node is None:
        return
    threading.Thread(target=_end_after, args=(int(node),), daemon=True).start()
    if "--parent-pid" in sys.argv:
        sys.argv[sys.argv.index("--parent-pid") + 1] = node


def _end_after(node: int) -> None:
    with suppress(ProcessLookupError):
        while True:
            os.kill(node, 0)
            time.sleep(_LOOK_SECONDS)
    time.sleep(_LEAVE_SECONDS)
    os._exit(1)


def write_launcher(folder: Path) -> Path:
    """A folder for PATH with a `flwr-clientapp` that is ours; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    launcher, program = folder / CLIENT_APP, Path(__file__).with_name("launcher.py")
    # Isolated and without site packages: nothing of Flower or ours is loaded, which takes 20 ms instead of a second.
    launcher.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{program}" "$@"\n', encoding="utf-8")
    launcher.chmod(0o755)
    return folder


def guarded_path(folder: Path, path: str) -> str:
    """A PATH on which `flwr-clientapp` is the launcher in `folder`, and no other one.

    Raises:
        SettingError: the launcher may not be executed there.
    """
    others = [place for place in path.split(os.pathsep) if place and shutil.which(CLIENT_APP, path=place) is None]
    guarded, launcher = os.pathsep.join([str(folder), *others]), folder / CLIENT_APP
    if shutil.which(CLIENT_APP, path=guarded) != str(launcher):
        raise SettingError(
            f"{launcher} cannot be executed, and without it no bundle would be checked",
            remedy="put state_dir on a file system that may execute (not noexec), in a folder without ':' in its name",
        )
    return guarded


if __name__ == "__main__":
    main()
