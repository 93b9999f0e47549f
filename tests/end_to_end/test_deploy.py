"""deploy/: containers, services and the air-gapped bundle call only commands that exist, and give away nothing.

No image is built here: what a file says is checked, command lines by the commands' own parsers.
"""

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from wbc_client import cli as client_cli
from wbc_server import cli as server_cli

REPOSITORY = Path(__file__).parents[2]
DEPLOY = REPOSITORY / "deploy"
APPS = {"wbc-client": client_cli.app, "wbc-server": server_cli.app}
COMPOSE = {path.parent.name: yaml.safe_load(path.read_text()) for path in DEPLOY.glob("*/compose.yaml")}
SERVICES = {f"{role}/{name}": service for role in COMPOSE for name, service in COMPOSE[role]["services"].items()}
# Of the Compose specification, what these files use.
SERVICE_KEYS = {
    *("image", "command", "user", "restart", "read_only", "cap_drop", "security_opt", "pids_limit", "init", "profiles"),
    *("stop_grace_period", "ports", "tmpfs", "volumes", "logging", "environment", "healthcheck", "deploy"),
}
VOLUME_KEYS = {"type", "source", "target", "read_only", "bind"}


def check_command_line(words: list[str]) -> None:
    """Fail unless the program's own parser takes these words."""
    program, subcommand, *arguments = words
    get_command(APPS[program]).commands[subcommand].make_context(subcommand, arguments)  # type: ignore[attr-defined]


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile as (instruction, rest), with continued lines joined."""
    text = re.sub(r"\\\n\s*", " ", (DEPLOY / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def stages() -> dict[str, list[tuple[str, str]]]:
    """Stage → its instructions."""
    found: dict[str, list[tuple[str, str]]] = {}
    name = ""
    for instruction, rest in instructions():
        if instruction == "FROM":
            name = rest.split(" AS ")[1]
            found[name] = []
        elif name:
            found[name].append((instruction, rest))
    return found


@pytest.mark.parametrize("image", ["coordinator", "clinic", "clinic-gpu"])
def test_an_image_runs_one_of_our_commands_as_no_root_and_is_asked_for_its_health(image: str) -> None:
    steps = dict(stages()[image])
    entry = json.loads(steps["ENTRYPOINT"])
    scripts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["scripts"]
    assert entry[0] in scripts
    check_command_line([*entry, *json.loads(steps["CMD"])])
    check_command_line(json.loads(steps["HEALTHCHECK"].partition(" CMD ")[2]))
    assert steps["USER"] == "10001:10001"


def test_what_is_copied_into_an_image_exists_and_is_code_alone() -> None:
    copied = [rest.split()[:-1] for instruction, rest in stages()["wheel"] if instruction == "COPY"]
    names = {name for names in copied for name in names}
    assert names == {"pyproject.toml", "README.md", "LICENSE", "common", "client", "server", "simulations"}
    assert all((REPOSITORY / name).exists() for name in names)
    allowed = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert {line[1:] for line in allowed if line.startswith("!")} == names
    assert "*" in allowed
    later = [rest for name, steps in stages().items() if name != "wheel" for step, rest in steps if step == "COPY"]
    assert all(rest.startswith("--from=") for rest in later)


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
def test_a_container_can_write_nothing_but_its_folders_and_gain_no_right(service: dict[str, Any]) -> None:
    assert set(service) <= SERVICE_KEYS
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service["user"].startswith(("0", "root"))
    assert all(set(volume) <= VOLUME_KEYS and volume["type"] == "bind" for volume in service["volumes"])


def test_one_port_is_published_at_the_coordinator_and_none_at_a_clinic() -> None:
    ports = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert ports == {"coordinator/coordinator": ["8443:8443"]}


def test_a_clinics_keys_plan_and_cells_cannot_be_written_while_it_runs() -> None:
    volumes = {volume["target"]: volume.get("read_only", False) for volume in SERVICES["clinic/clinic"]["volumes"]}
    assert volumes == {"/clinic": True, "/cells": True, "/state": False}


@pytest.mark.parametrize("name", ["coordinator/coordinator", "clinic/clinic"])
def test_a_container_has_an_image_of_the_dockerfile_and_a_command_that_parses(name: str) -> None:
    image = SERVICES[name]["image"].removeprefix("wbc-fl:")
    check_command_line([*json.loads(dict(stages()[image])["ENTRYPOINT"]), *SERVICES[name]["command"]])


def test_the_gpu_file_changes_the_image_and_asks_for_a_device() -> None:
    service = yaml.safe_load((DEPLOY / "clinic" / "compose.gpu.yaml").read_text())["services"]["clinic"]
    assert set(service) == {"image", "deploy"}
    assert service["image"].removeprefix("wbc-fl:") in stages()
    assert service["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]


@pytest.mark.parametrize("unit", sorted(DEPLOY.glob("*.service")), ids=lambda path: path.name)
def test_a_service_starts_a_command_that_parses_and_systemd_takes_it(unit: Path, tmp_path: Path) -> None:
    line = next(line for line in unit.read_text().splitlines() if line.startswith("ExecStart="))
    words = shlex.split(line.removeprefix("ExecStart="))
    check_command_line([Path(words[0]).name, *words[1:]])
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    here = tmp_path / unit.name  # the program where it is on this machine
    here.write_text(unit.read_text().replace(words[0], str(Path(sys.executable).with_name(Path(words[0]).name))))
    done = subprocess.run(["systemd-analyze", "verify", str(here)], capture_output=True, text=True, check=False)
    assert unit.name not in done.stderr, done.stderr
    assert done.returncode == 0, done.stderr


def test_the_runbooks_commands_parse() -> None:
    text = (DEPLOY / "README.md").read_text()
    blocks = "\n".join(re.findall(r"^```\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE))
    lines = [line.split("  #")[0].strip() for line in blocks.splitlines()]
    ours = [line for line in lines if line.startswith("wbc-")]
    inside = [line.partition(" prepare ")[2] for line in lines if "run --rm prepare" in line]
    assert len(ours) > 5
    assert len(inside) == 3
    for line in [*ours, *(f"wbc-client {line}" for line in inside)]:
        check_command_line(shlex.split(line))


def test_a_bundle_for_machines_without_a_network_that_was_changed_is_not_installed(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    shutil.copy(DEPLOY / "air-gapped" / "install.sh", tmp_path)
    wheel = tmp_path / "wheels" / "wbc_fl.whl"
    wheel.write_bytes(b"as sent")
    sums = subprocess.run(["sha256sum", "./install.sh", "./wheels/wbc_fl.whl"], cwd=tmp_path, capture_output=True)
    (tmp_path / "SHA256SUMS").write_bytes(sums.stdout)
    wheel.write_bytes(b"changed")
    assert install(tmp_path).returncode != 0
    wheel.write_bytes(b"as sent")
    (tmp_path / "wheels" / "more.whl").touch()
    assert "not in SHA256SUMS: ./wheels/more.whl" in install(tmp_path).stderr
    assert not (tmp_path / "venv").exists()


def test_a_bundle_for_another_python_names_the_tag_of_every_wheel_that_is_needed() -> None:
    """pip takes no other: torch has 2_28, CUDA's libraries 2_27, 2_25, 2_18 and 2014, grpcio 2_17."""
    text = (DEPLOY / "air-gapped" / "bundle.sh").read_text()
    command = next(line for line in text.splitlines() if "--python-version" in line).removeprefix("#   … OUT ")
    words = subprocess.run(["bash", "-c", f"echo {command}"], capture_output=True, text=True, check=True).stdout.split()
    tags = {words[place + 1] for place, word in enumerate(words) if word == "--platform"}
    assert tags >= {f"manylinux{tag}_x86_64" for tag in ("_2_28", "_2_27", "_2_25", "_2_18", "_2_17", "2014")}


@pytest.mark.parametrize("name", ["coordinator/coordinator", "clinic/clinic"])
def test_a_container_that_needs_a_person_is_not_started_for_ever(name: str) -> None:
    policy, _, attempts = SERVICES[name]["restart"].partition(":")
    assert policy == "on-failure"
    assert 0 < int(attempts) < 10


def install(folder: Path) -> "subprocess.CompletedProcess[str]":
    command = ["bash", str(folder / "install.sh"), str(folder / "venv")]
    return subprocess.run(command, capture_output=True, text=True, check=False)
