"""What a clinic's node is told when the SuperLink or the gateway itself fails: 503, on which it waits and repeats.

At 500 Flower's SuperNode gives up for good and seems to run on.
"""

import asyncio
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from federations import wait_for
from wbc_common.keys import make_key, read_private_key, signed_headers
from wbc_common.link import HEALTH_PATH
from wbc_common.processes import Command, end_group, flower_environment, spawn
from wbc_common.study import parse_study, write_study
from wbc_server.exchange.deployment import Deployment
from wbc_server.link import gateway
from wbc_server.link.folder import StudyFolder
from wbc_server.link.gateway import build_app
from wbc_server.link.register import read_register, write_register
from wbc_server.link.setup import make_folder
from wbc_server.link.starting import free_port, gateway_answers

PLAN = {"name": "door", "rounds": 1, "clinics": {"train": ["munich", "vienna"], "held_out": ["berlin"]}}
PULL = "/v1/fleet/pull-messages"


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    """One with munich enrolled."""
    write_study(parse_study(PLAN, "test"), tmp_path / "plan.toml")
    made = make_folder(
        tmp_path / "study", hosts=["localhost"], port=free_port(), bind="127.0.0.1", study=tmp_path / "plan.toml"
    )
    key = make_key(tmp_path / "munich", "munich")
    write_register(
        made.register_file,
        read_register(made.register_file).enrol(made.study(), "munich", key, None, replace=False),
    )
    return made


def headers(folder: StudyFolder) -> dict[str, str]:
    return signed_headers(read_private_key(folder.path.parent / "munich"))


def told(folder: StudyFolder, superlink: Callable[[httpx.Request], httpx.Response]) -> httpx.Response:
    """What munich's node is answered when it asks for a task."""

    async def ask() -> httpx.Response:
        link = httpx.AsyncClient(transport=httpx.MockTransport(superlink), base_url="https://link")
        door = httpx.ASGITransport(build_app(folder, link, "b"), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=door, base_url="https://door") as node:
            return await node.post(PULL, headers=headers(folder))

    return asyncio.run(ask())


@pytest.mark.parametrize(("status", "expected"), [(500, 503), (503, 503), (401, 401), (404, 404)])
def test_what_fails_behind_is_to_be_repeated_and_what_is_refused_is_refused(
    folder: StudyFolder, status: int, expected: int
) -> None:
    assert told(folder, lambda _: httpx.Response(status)).status_code == expected


def test_what_fails_in_the_gateway_is_to_be_repeated(folder: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Deployment, "idle", full)
    assert told(folder, lambda _: httpx.Response(200)).status_code == 503


def test_a_superlink_that_takes_its_time_leaves_the_gateway_well(
    folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "_HEALTH_SECONDS", 0.1)
    waited: list[float] = []

    def late(request: httpx.Request) -> httpx.Response:
        waited.append(request.extensions["timeout"]["read"])
        raise httpx.ReadTimeout("late", request=request)

    async def ask() -> httpx.Response:
        link = httpx.AsyncClient(transport=httpx.MockTransport(late), base_url="https://link", timeout=60.0)
        door = httpx.ASGITransport(build_app(folder, link, "b"))
        async with httpx.AsyncClient(transport=door, base_url="https://door") as anyone:
            return await anyone.get(HEALTH_PATH)

    answer = asyncio.run(ask())
    assert (answer.status_code, answer.json(), waited) == (503, {"status": "starting"}, [0.1])


@pytest.mark.slow
def test_a_gateway_that_ends_while_the_superlink_is_silent_says_no_500(folder: StudyFolder, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        module = [sys.executable, "-m", "wbc_server.link.gateway", str(folder.path)]
        arguments = [*module, "--link-port", str(port), "--bundle", "b"]
        running = spawn(Command("gateway", arguments, flower_environment(tmp_path), tmp_path / "gateway.log"))
        try:
            wait_for(lambda: gateway_answers(folder), 60)
            told: list[object] = []
            asking = threading.Thread(target=lambda: told.append(_asked(folder)))
            asking.start()
            time.sleep(1)
            running.send_signal(signal.SIGTERM)
            asking.join(20)
            assert told in ([503], ["no answer"]), told
        finally:
            end_group(running)
    assert "Traceback" not in (tmp_path / "gateway.log").read_text()


def _asked(folder: StudyFolder) -> int | str:
    context = ssl.create_default_context(cafile=str(folder.authority))
    address = f"https://localhost:{folder.settings().port}"
    try:
        with httpx.Client(base_url=address, verify=context, trust_env=False, timeout=20.0) as node:
            return node.post(PULL, headers=headers(folder)).status_code
    except httpx.TransportError:
        return "no answer"
