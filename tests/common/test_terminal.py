"""How a command ends."""

import errno
import subprocess
import sys
from collections.abc import Callable

import pytest
import typer

from wbc_common.errors import DataError, PolicyError
from wbc_common.terminal import run_command


def fail(error: BaseException) -> Callable[[], object]:
    def command() -> object:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (DataError("bad image", remedy="send it again"), 3, "error: bad image\n  next step: send it again"),
        (PolicyError("no", remedy="ask"), 5, "error: no\n  next step: ask"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(errno.ENOSPC, "No space left on device", "/data/x"), 1, "error: No space left on device (/data/x)"),
        (OSError("odd"), 1, "error: odd"),
    ],
)
def test_a_failure_is_a_message_and_a_code(
    error: BaseException, code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        run_command(fail(error))
    captured = capsys.readouterr()
    assert left.value.code == code
    assert captured.err.startswith(text)
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_success_is_code_0(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        run_command(lambda: None)
    assert left.value.code == 0
    assert capsys.readouterr().err == ""


def test_a_bug_of_ours_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: 1 // 0)


def test_an_interrupt_inside_a_typer_command_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    app = typer.Typer()
    app.command()(fail(KeyboardInterrupt()))
    monkeypatch.setattr("sys.argv", ["command"])
    with pytest.raises(SystemExit) as left:
        run_command(app)
    assert left.value.code == 130


def test_sigterm_ends_a_command_also_where_sigint_is_ignored_as_in_the_background_of_a_shell() -> None:
    code = (
        "import os, signal; signal.signal(signal.SIGINT, signal.SIG_IGN);"
        "from wbc_common.terminal import interrupt_on_signals, run_command; interrupt_on_signals();"
        "run_command(lambda: os.kill(os.getpid(), signal.SIGTERM) or signal.pause())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False)
    assert done.returncode == 130
