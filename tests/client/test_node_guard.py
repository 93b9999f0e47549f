"""No code travels: a clinic runs what it installed, whatever bundle comes."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from wbc_client.node.guard import CLIENT_APP, NODE_VARIABLE, check_bundle, guarded_path, write_launcher
from wbc_client.node.serving import install_bundle
from wbc_common.bundle import Bundle, build_bundle
from wbc_common.errors import PolicyError, SettingError
from wbc_common.processes import flower_environment


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    place = tmp_path_factory.mktemp("bundle")
    return build_bundle(place / "bundle", flower_environment(place / "home"))


def test_the_bundle_holds_names_and_no_code_and_is_the_same_on_both_sides(bundle: Bundle, tmp_path: Path) -> None:
    with zipfile.ZipFile(bundle.path) as content:
        assert [name for name in content.namelist() if not name.startswith(".info/")] == ["pyproject.toml"]
    assert bundle.path.stat().st_size < 2000
    assert build_bundle(tmp_path, flower_environment(tmp_path / "home")).sha256 == bundle.sha256


def test_another_bundle_is_refused_by_its_bytes(bundle: Bundle) -> None:
    check_bundle(bundle.path.read_bytes(), bundle.sha256)
    with pytest.raises(PolicyError, match="not the approved one"):
        check_bundle(bundle.path.read_bytes() + b" ", bundle.sha256)


def test_the_folder_of_apps_holds_the_approved_one_and_cannot_be_written(bundle: Bundle, tmp_path: Path) -> None:
    for _ in range(2):  # a second start finds the first one's folder and replaces it
        install_bundle(bundle, tmp_path)
    apps = tmp_path / "apps"
    (app,) = apps.iterdir()
    assert app.name.endswith(bundle.sha256[:8])
    assert [path.name for path in app.iterdir()] == ["pyproject.toml"]
    assert all(path.stat().st_mode & 0o222 == 0 for path in [apps, app, *app.iterdir()])


def test_flowers_clientapp_still_unpacks_under_the_name_that_the_guard_stands_before() -> None:
    import inspect

    from flwr.supernode.runtime import run_clientapp

    assert "install_from_fab(fab.content" in inspect.getsource(run_clientapp.run_clientapp)


def test_the_launcher_runs_the_guarded_program_itself_where_no_starter_is(tmp_path: Path) -> None:
    launcher = write_launcher(tmp_path) / "flwr-clientapp"
    environment = {**os.environ, "WBC_APPROVED_BUNDLE": "x", "WBC_STARTER_SOCKET": str(tmp_path / "none")}
    done = subprocess.run([launcher, "--help"], env=environment, capture_output=True, text=True, check=False)
    assert "Run a Flower ClientApp" in done.stdout


def test_nothing_but_the_launcher_is_found_as_clientapp_also_once_it_is_gone(tmp_path: Path) -> None:
    beside = str(Path(sys.executable).parent)  # where Flower's own lies
    path = guarded_path(write_launcher(tmp_path), f"{beside}::/usr/bin")
    launcher = tmp_path / "flwr-clientapp"
    assert path == f"{tmp_path}:/usr/bin"
    assert shutil.which("flwr-clientapp", path=path) == str(launcher)
    launcher.unlink()
    assert shutil.which("flwr-clientapp", path=path) is None


def test_a_launcher_that_may_not_be_executed_is_refused_with_the_next_step(tmp_path: Path) -> None:
    (write_launcher(tmp_path) / "flwr-clientapp").chmod(0o644)  # as on a file system that is mounted noexec
    with pytest.raises(SettingError, match="no bundle would be checked") as refused:
        guarded_path(tmp_path, os.environ["PATH"])
    assert "file system that may execute" in refused.value.remedy


def test_flower_still_starts_a_clientapp_by_its_name_on_path() -> None:
    import inspect

    from flwr.supercore.constant import TASK_TYPE_TO_COMMAND, TaskType
    from flwr.supercore.superexec.executor import subprocess_executor

    assert TASK_TYPE_TO_COMMAND[TaskType.CLIENT_APP] == CLIENT_APP
    assert "subprocess.Popen(args)" in inspect.getsource(subprocess_executor)


def test_the_courier_holds_no_torch() -> None:
    code = "import sys, wbc_client.node.courier; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_clientapp_that_waits_for_ever_ends_when_its_node_is_gone() -> None:
    code = """
import threading
from wbc_client.node import guard
guard._LOOK_SECONDS = guard._LEAVE_SECONDS = 0.1
guard._belong_to_node()
print("waits", flush=True)
lock = threading.Lock()
lock.acquire()
lock.acquire()
"""
    node = subprocess.Popen(["sleep", "60"])
    environment = os.environ | {NODE_VARIABLE: str(node.pid)}
    waiting = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == "waits\n"
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(0.5)
        node.kill()
        node.wait()
        assert waiting.wait(10) == 1
    finally:
        waiting.kill()
        waiting.wait()
