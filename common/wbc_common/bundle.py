"""The bundle that Flower asks for, made so that no code travels.

Flower ships an app's folder to every clinic and puts it first on `sys.path`, where it would shadow the audited package.
Ours is one pyproject.toml that names the installed apps: the code is the wheel that each party installed itself. Both
sides build it from this text with Flower's own command, so a clinic knows the only bundle it accepts by its SHA-256
without having it sent.
"""

import hashlib
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from wbc_common.errors import WbcError
from wbc_common.processes import flower_command

SERVER_APP = "wbc_server.app:app"
CLIENT_APP = "wbc_client.node.courier:app"
_TEXT = """\
[project]
name = "wbc-fl"
version = "{version}"
description = "Names the installed apps; holds no code."
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "wbc-fl"

[tool.flwr.app.components]
serverapp = "{server_app}"
clientapp = "{client_app}"

[tool.flwr.app.config]
run-dir = ""
"""


@dataclass(frozen=True)
class Bundle:
    """A built bundle: the file and the SHA-256 of its bytes."""

    path: Path
    sha256: str


def write_app(folder: Path) -> None:
    """Write the app's folder: its pyproject.toml, and nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    text = _TEXT.format(version=version("wbc-fl"), server_app=SERVER_APP, client_app=CLIENT_APP)
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")


def build_bundle(folder: Path, environment: Mapping[str, str]) -> Bundle:
    """Build the bundle with `flwr build` and keep it in `folder`.

    Raises:
        WbcError: Flower could not build it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        app = Path(place) / "wbc-fl"
        write_app(app)
        built = subprocess.run(
            [flower_command("flwr"), "build", "--app", str(app)],
            cwd=place,
            env=dict(environment),
            capture_output=True,
            text=True,
            check=False,
        )
        found = list(Path(place).glob("*.fab"))
        if built.returncode or len(found) != 1:
            raise WbcError(
                f"Flower could not build the app's bundle: {built.stdout}{built.stderr}",
                remedy="reinstall wbc-fl with the flwr version it names",
            )
        content = found[0].read_bytes()
        target = folder / found[0].name
        target.write_bytes(content)
    return Bundle(target, hashlib.sha256(content).hexdigest())
