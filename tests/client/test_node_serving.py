"""A clinic's node: what it prepares, and what it says of itself while its trainer opens, serves and ends."""

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from wbc_client.cli import app
from wbc_client.node import serving
from wbc_client.node.serving import Node, prepare
from wbc_client.node.setup import make_clinic
from wbc_client.site import Site, read_site
from wbc_common.errors import SettingError
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
def node(site: Site, tmp_path: Path) -> Iterator[Node]:
    """Prepared, in a folder that an earlier version left open to others; no process runs yet."""
    (site.state_dir / "node").mkdir(parents=True, mode=0o755)
    node = prepare(tmp_path / "clinic.toml", site)
    yield node
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
