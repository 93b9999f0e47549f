"""Whether a coordinator runs, for a service manager: by its lock and its gateway's answer, not by what it wrote."""

import json
import threading
from pathlib import Path

import pytest

from federations import wait_for
from wbc_common.errors import ConnectionFailure, WbcError
from wbc_common.terminal import run_command
from wbc_server.cli import app
from wbc_server.link.folder import StudyFolder
from wbc_server.link.gateway import build_server
from wbc_server.link.setup import make_folder
from wbc_server.link.standing import check_runs
from wbc_server.link.starting import free_port, gateway_answers, only_one, reached_at


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    made = make_folder(tmp_path / "study", hosts=["localhost"], port=free_port(), bind="127.0.0.1", study=None)
    made.link.mkdir()
    made.state_file.write_text(json.dumps({"process": 1}))  # as a coordinator that was killed leaves it
    return made


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and words of a command that refuses."""
    with pytest.raises(SystemExit) as left:
        run_command(lambda: app(list(arguments), standalone_mode=False))
    assert isinstance(left.value.code, int)
    return left.value.code, capsys.readouterr().err


def test_a_coordinator_that_was_killed_is_not_well(folder: StudyFolder, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(WbcError, match="no coordinator runs"):
        check_runs(folder)
    code, _ = refusal(capsys, "status", str(folder.path), "--health")
    assert code == 1


def test_a_coordinator_whose_gateway_is_away_is_not_well(folder: StudyFolder) -> None:
    with only_one(folder), pytest.raises(ConnectionFailure, match="gateway does not answer"):
        check_runs(folder)


@pytest.mark.parametrize(
    ("bind", "host"),
    [
        ("0.0.0.0", "127.0.0.1"),
        ("192.0.2.7", "192.0.2.7"),
        ("::", "[::1]"),
        ("0:0:0:0:0:0:0:0", "[::1]"),
        ("2001:db8::7", "[2001:db8::7]"),
        ("fl.example.org", "fl.example.org"),
    ],
)
def test_the_gateway_is_asked_where_it_listens(bind: str, host: str) -> None:
    assert reached_at(bind) == host


@pytest.mark.parametrize("bind", ["::", "::1", "no address at all"])
def test_a_gateway_that_is_not_there_is_not_well_whatever_it_should_listen_on(tmp_path: Path, bind: str) -> None:
    made = make_folder(tmp_path / "study", hosts=["localhost"], port=free_port(), bind=bind, study=None)
    assert not gateway_answers(made)


def test_a_gateway_on_ipv6_is_found(tmp_path: Path) -> None:
    made = make_folder(tmp_path / "study", hosts=["localhost"], port=free_port(), bind="::", study=None)
    server = build_server(made, link_port=1, bundle="b")
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_for(lambda: gateway_answers(made), 20)
    finally:
        server.should_exit = True
        thread.join()


def test_a_service_starts_a_study_that_has_not_begun_where_resume_alone_refuses(
    folder: StudyFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "has not begun" in refusal(capsys, "resume", str(folder.path))[1]
    assert "not enrolled yet" in refusal(capsys, "start", str(folder.path), "--or-resume")[1]
