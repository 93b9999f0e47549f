"""Processes that are kept alive: restarted whatever they exit with, ended with all they started."""

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wbc_common import processes
from wbc_common.processes import Command, KeptProcess, end_group, flower_environment, spawn


def command(folder: Path, code: str, **options: object) -> Command:
    arguments = [sys.executable, "-u", "-c", code]
    return Command("test", arguments, dict(os.environ), folder / "log", **options)  # type: ignore[arg-type]


def look_until(kept: KeptProcess, starts: int) -> None:
    end = time.monotonic() + 20
    while kept.starts < starts:
        assert time.monotonic() < end
        kept.look()
        time.sleep(0.02)


@pytest.mark.parametrize("code", [0, 1])
def test_a_process_that_ends_is_started_again_also_after_code_0(tmp_path: Path, code: int) -> None:
    kept = KeptProcess(command(tmp_path, f"raise SystemExit({code})"))
    look_until(kept, 2)
    kept.end()


def test_a_process_that_does_not_answer_is_ended_and_started_again(tmp_path: Path) -> None:
    deaf = command(tmp_path, "import time; time.sleep(60)", healthy=lambda: False, patience_seconds=0.2)
    kept = KeptProcess(deaf)
    look_until(kept, 2)
    kept.end()
    assert not kept.runs


def test_a_process_that_is_slow_to_start_gets_longer_than_one_that_falls_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, answers = 0.0, False
    monkeypatch.setattr(time, "monotonic", lambda: now)
    slow = command(tmp_path, "input()", healthy=lambda: answers, patience_seconds=10.0)
    kept = KeptProcess(slow)
    running = subprocess.Popen(["sleep", "60"], start_new_session=True)
    monkeypatch.setattr(processes, "spawn", lambda _: running)
    kept.look()
    now = 49.0
    kept.look()
    assert kept.runs
    now, answers = 50.0, True
    kept.look()
    now, answers = 59.0, False
    kept.look()
    assert kept.runs
    now = 60.5
    kept.look()
    assert not kept.runs


def test_a_process_waits_until_it_makes_sense_to_start_it(tmp_path: Path) -> None:
    kept = KeptProcess(command(tmp_path, "pass", may_start=lambda: False))
    kept.look()
    assert kept.starts == 0


def test_what_a_process_started_ends_with_it(tmp_path: Path) -> None:
    code = "import subprocess, time; print(subprocess.Popen(['sleep', '60']).pid, flush=True); time.sleep(60)"
    process = spawn(command(tmp_path, code))
    log = tmp_path / "log"
    while not log.read_text().strip():
        time.sleep(0.02)
    end_group(process)
    assert ends(int(log.read_text()))


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is Linux'")
def test_a_supervisor_that_is_killed_takes_its_processes_with_it(tmp_path: Path) -> None:
    code = f"""
import os, time
from pathlib import Path
from wbc_common.processes import Command, spawn
print(spawn(Command("c", ["sleep", "60"], dict(os.environ), Path({str(tmp_path / "log")!r}))).pid, flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert ends(child)


def ends(process: int) -> bool:
    """Whether a process is gone, or dead and not yet buried, within seconds."""
    for _ in range(200):
        state = Path(f"/proc/{process}/stat")
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.02)
    return False


def test_a_log_that_grew_large_is_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_LONGEST_LOG_BYTES", 10)
    kept = KeptProcess(command(tmp_path, "print('x' * 100, flush=True); import time; time.sleep(60)"))
    kept.look()
    while not (tmp_path / "log.1").exists():
        time.sleep(0.02)
        kept.look()
    kept.end()
    assert (tmp_path / "log.1").read_text().strip() == "x" * 100
    assert (tmp_path / "log").read_text() == ""
    assert mode_of(tmp_path / "log.1") == 0o600


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_log_is_its_owners_alone_also_one_that_was_left_to_others(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        for left in (False, True):
            folder = tmp_path / str(left)
            folder.mkdir()
            if left:
                (folder / "log").touch(0o644)
            end_group(spawn(command(folder, "pass")))
            assert mode_of(folder / "log") == 0o600
    finally:
        os.umask(before)


def test_a_log_that_someone_put_aside_ends_nothing(tmp_path: Path) -> None:
    kept = KeptProcess(command(tmp_path, "import time; time.sleep(60)"))
    kept.look()
    (tmp_path / "log").rename(tmp_path / "aside")
    kept.look()
    assert kept.runs
    kept.end()


def test_what_either_spelling_of_no_proxy_names_is_reached_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("no_proxy", ".clinic.example")
    for asked in ("NO_PROXY", "no_proxy"):
        assert flower_environment(tmp_path)[asked] == ".clinic.example,127.0.0.1,localhost"
    monkeypatch.setenv("NO_PROXY", "fl.example.org")
    assert flower_environment(tmp_path)["no_proxy"] == "fl.example.org,.clinic.example,127.0.0.1,localhost"


def test_flowers_processes_are_silent_and_never_ask_a_proxy_for_loopback(tmp_path: Path) -> None:
    environment = flower_environment(tmp_path)
    assert environment["FLWR_TELEMETRY_ENABLED"] == "0"
    assert environment["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert "127.0.0.1" in environment["NO_PROXY"].split(",")
    assert environment["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)
