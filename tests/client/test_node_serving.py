"""A clinic's node: what it prepares, and what it says of itself while its trainer opens, serves and ends."""

import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from wbc_client.cli import app
from wbc_client.node import serving
from wbc_client.node.health import State, StateFile, state_path
from wbc_client.node.serving import Node, prepare
from wbc_client.node.setup import make_clinic
from wbc_client.site import Site, read_site
from wbc_common.errors import DataError, SettingError
from wbc_common.processes import Command, KeptProcess
from wbc_common.study import parse_study, write_study


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = make_clinic(tmp_path, "munich", "localhost:1")
    write_study(parse_study({"name": "s", "clinics": {"train": ["munich", "vienna"]}}, "test"), tmp_path / "study.toml")
    site = read_site(made.clinic_file)
    assert CliRunner().invoke(app, ["approve", str(made.clinic_file), "--yes"]).exit_code == 0
    before = os.umask(0o022)
    yield site
    os.umask(before)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder for a socket, whose path must be short."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.fixture
def node(site: Site, tmp_path: Path) -> Iterator[Node]:
    """Prepared, in a folder that an earlier version left open to others; no process runs yet."""
    (site.state_dir / "node").mkdir(parents=True, mode=0o755)
    node = prepare(tmp_path / "clinic.toml", site)
    yield node
    node.end()


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The coordinator knows every node."""
    monkeypatch.setattr(Node, "is_registered", True)


def node_with(site: Site, trainer: Command, folder: Path) -> Node:
    """A node that has nothing but a trainer."""
    kept = KeptProcess(trainer)
    return Node(site, kept, [kept], folder / "trainer", StateFile(state_path(site)))


def states_until(node: Node, done: Callable[[], bool]) -> list[State | None]:
    """Look after a node until something holds; its states on the way, each once."""
    states: list[State | None] = []
    end = time.monotonic() + 60
    while not done():
        assert time.monotonic() < end, states
        node.look()
        states += [node.state.state] if states[-1:] != [node.state.state] else []
        time.sleep(0.02)
    return states


@pytest.mark.usefixtures("known")
def test_a_node_whose_trainer_cannot_open_the_clinic_never_says_approved(site: Site, short_folder: Path) -> None:
    trainer = serving._trainer(site, site.state_dir.parent / "clinic.toml", short_folder / "trainer", dict(os.environ))
    node = node_with(site, trainer, short_folder)
    states = states_until(node, lambda: node.trainer.starts == 2)
    node.end()
    assert states == ["opening", "failing"]
    assert node.trainer.last_code == DataError.exit_code
    assert "next step" in (site.state_dir / "node" / "trainer.log").read_text()


@pytest.mark.usefixtures("known")
def test_a_trainer_that_was_killed_at_work_and_cannot_start_again_is_not_taken_for_training(
    site: Site, short_folder: Path
) -> None:
    code = f"""
import sys, time
from pathlib import Path
folder = Path({str(short_folder)!r})
if (folder / "second").exists():
    sys.exit(3)
time.sleep(0.5)
for name in ("second", "ready", "busy"):
    (folder / name).touch()
time.sleep(60)
"""
    log = site.state_dir / "node" / "trainer.log"
    node = node_with(site, Command("trainer", [sys.executable, "-c", code], dict(os.environ), log), short_folder)
    assert states_until(node, lambda: node.state.state == "training") in (
        ["opening", "training"],
        ["opening", "approved", "training"],  # between the two marks
    )
    assert node.trainer.process is not None
    node.trainer.process.kill()
    assert states_until(node, lambda: node.trainer.starts == 3)[-1] == "failing"
    assert not {"ready", "busy"} & {path.name for path in short_folder.iterdir()}
    node.end()


@pytest.mark.usefixtures("known")
def test_a_trainer_that_serves_makes_its_node_approved_even_if_the_mark_is_cleaned_away(
    site: Site, short_folder: Path
) -> None:
    code = f"""
from pathlib import Path
from types import SimpleNamespace
from wbc_client import clinic
from wbc_client.node import trainer
opened = SimpleNamespace(site=SimpleNamespace(clinic="munich"), cells=[], device="cpu")
clinic.open_clinic = lambda path: opened
trainer.serve(Path("clinic.toml"), Path({str(short_folder / "trainer")!r}))
"""
    log = site.state_dir / "node" / "trainer.log"
    node = node_with(site, Command("trainer", [sys.executable, "-c", code], dict(os.environ), log), short_folder)
    assert states_until(node, lambda: node.state.state == "approved") == ["opening", "approved"]
    (short_folder / "ready").unlink()
    node.look()
    assert node.state.state == "approved"
    node.end()


def test_what_a_node_writes_is_its_owners_alone(node: Node) -> None:
    assert stat.S_IMODE((node.site.state_dir / "node").stat().st_mode) == 0o700
    assert os.umask(0o022) == 0o077


def test_the_process_that_starts_clientapps_finds_the_guarded_one_and_no_other(node: Node) -> None:
    (superexec,) = [kept.command for kept in node.kept if kept.command.name == "superexec"]
    launcher = node.site.state_dir / "node" / "bin" / "flwr-clientapp"
    assert Path(superexec.arguments[0]).is_absolute()
    assert shutil.which("flwr-clientapp", path=superexec.environment["PATH"]) == str(launcher)
    launcher.unlink()
    assert shutil.which("flwr-clientapp", path=superexec.environment["PATH"]) is None


def test_a_node_whose_launcher_cannot_be_executed_does_not_start(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "write_launcher", lambda folder: folder)
    with pytest.raises(SettingError, match="cannot be executed"):
        prepare(tmp_path / "clinic.toml", site)
