"""A clinic's node as others see it: one word and one exit code, and no killed node is taken for a well one."""

import json
import os
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from wbc_client.cli import app
from wbc_client.node.approval import approve_plan
from wbc_client.node.health import State, StateFile, only_node, read_health, state_path
from wbc_client.node.setup import make_clinic
from wbc_client.site import Site, read_site
from wbc_common.errors import SettingError
from wbc_common.study import parse_study, write_study
from wbc_common.terminal import run_command


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = make_clinic(tmp_path, "munich", "localhost:1")
    write_study(parse_study({"name": "s", "clinics": {"train": ["munich", "vienna"]}}, "test"), tmp_path / "study.toml")
    return read_site(made.clinic_file)


def exit_of(*arguments: str) -> int:
    """The exit code of `wbc-client` as a shell or a container sees it."""
    with pytest.raises(SystemExit) as left:
        run_command(lambda: app(list(arguments), standalone_mode=False))
    assert isinstance(left.value.code, int)
    return left.value.code


@pytest.mark.parametrize(
    ("state", "code"),
    [("up", 4), ("registered", 5), ("opening", 1), ("failing", 1), ("approved", 0), ("training", 0)],
)
def test_each_state_of_a_node_has_its_exit_code(site: Site, tmp_path: Path, state: State, code: int) -> None:
    with only_node(site):
        StateFile(state_path(site)).note(state)
        assert read_health(site).state == state
        assert exit_of("status", str(tmp_path / "clinic.toml"), "--json") == code


@pytest.mark.parametrize("state", ["opening", "failing"])
def test_a_node_whose_trainer_does_not_serve_names_the_log_that_says_why(site: Site, state: State) -> None:
    with only_node(site):
        StateFile(state_path(site)).note(state)
        error = read_health(site).error
    assert error is not None
    assert str(site.state_dir / "node" / "trainer.log") in error.remedy


def test_a_node_that_was_killed_counts_as_stopped_whatever_its_file_says(site: Site, tmp_path: Path) -> None:
    StateFile(state_path(site)).note("training")
    told = CliRunner().invoke(app, ["status", str(tmp_path / "clinic.toml"), "--json"])
    assert json.loads(told.stdout)["state"] == "stopped"
    assert exit_of("status", str(tmp_path / "clinic.toml")) == 1


def test_a_node_that_gives_no_sign_hangs(site: Site, tmp_path: Path) -> None:
    with only_node(site):
        StateFile(state_path(site)).note("approved")
        os.utime(state_path(site), (time.time() - 300,) * 2)
        assert read_health(site).state == "hangs"
        assert exit_of("status", str(tmp_path / "clinic.toml")) == 1


def test_the_state_file_is_written_when_the_state_changes_and_touched_while_it_does_not(site: Site) -> None:
    file = StateFile(state_path(site))
    assert file.note("approved")
    os.utime(state_path(site), (0, 0))
    assert not file.note("approved")
    assert state_path(site).stat().st_mtime > time.time() - 60
    assert file.note("training")


def test_a_second_node_of_a_clinic_is_refused(site: Site, tmp_path: Path) -> None:
    approve_plan(site, site.read_study())
    with only_node(site):
        assert exit_of("start", str(tmp_path / "clinic.toml")) == 2
        with pytest.raises(SettingError, match="munich runs"), only_node(site):
            pass
