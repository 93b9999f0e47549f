"""The door between hospitals and the coordinator: what passes, and each thing that must not.

A real SuperLink and a real gateway run; requests are made as anyone on the network could make them.
"""

import asyncio
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    ActivateNodeResponse,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.message_pb2 import Message as ProtobufTask
from flwr.proto.message_pb2 import Metadata
from flwr.proto.node_pb2 import Node as FlowerNode
from google.protobuf.message import Message as ProtobufMessage

from federations import wait_for
from wbc_common.keys import make_key, public_pem, read_private_key, sign, signed_headers
from wbc_common.link import HEALTH_PATH, HELLO_PATH, KEY_HEADER, SIGNATURE_HEADER, TIME_HEADER
from wbc_common.processes import Command, KeptProcess, end_group, flower_environment, spawn
from wbc_common.study import parse_study, write_study
from wbc_server.exchange.deployment import Deployment
from wbc_server.link.certificates import make_server_certificate, read_issued
from wbc_server.link.coordinator import Coordinator
from wbc_server.link.folder import StudyFolder
from wbc_server.link.gateway import Gateway
from wbc_server.link.pushes import check_push
from wbc_server.link.register import changing, read_register, write_register
from wbc_server.link.setup import make_folder
from wbc_server.link.starting import free_port, prepare

pytestmark = pytest.mark.slow
PLAN = {"name": "door", "rounds": 1, "clinics": {"train": ["munich", "vienna"], "held_out": ["berlin"]}}


@dataclass
class Door:
    """A coordinator without a study that runs: SuperLink and gateway, and the keys of its clinics."""

    coordinator: Coordinator
    keys: Path

    @property
    def folder(self) -> StudyFolder:
        return self.coordinator.folder

    @property
    def address(self) -> str:
        return f"localhost:{self.folder.settings().port}"

    def client(self, **options: object) -> httpx.Client:
        context = ssl.create_default_context(cafile=str(self.folder.authority))
        return httpx.Client(base_url=f"https://{self.address}", verify=context, trust_env=False, **options)  # type: ignore[arg-type]

    def headers(self, clinic: str) -> dict[str, str]:
        return signed_headers(read_private_key(self.keys / clinic))

    def status(self, path: str, headers: dict[str, str] | None = None, content: bytes = b"") -> int:
        with self.client() as client:
            return client.post(path, headers=headers or {}, content=content).status_code


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    place = tmp_path_factory.mktemp("door")
    write_study(parse_study(PLAN, "test"), place / "study.toml")
    folder = make_folder(
        place / "study", hosts=["localhost"], port=free_port(), bind="127.0.0.1", study=place / "study.toml"
    )
    register = read_register(folder.register_file)
    for clinic in ("munich", "vienna"):
        register = register.enrol(folder.study(), clinic, make_key(place / clinic, clinic), None, replace=False)
    write_register(folder.register_file, register)
    make_key(place / "stranger", "stranger")
    coordinator = prepare(folder, lambda line: None)
    coordinator.kept = [kept for kept in coordinator.kept if kept.command.name != "superexec"]
    found = Door(coordinator, place)
    try:
        for kept in coordinator.kept:
            kept.look()
        wait_for(lambda: _is_up(found), 60)
        coordinator._synchronise()
        yield found
    finally:
        coordinator.end()


def _is_up(door: Door) -> bool:
    try:
        with door.client() as client:
            return client.get(HEALTH_PATH).status_code == 200
    except httpx.TransportError:
        return False


def test_an_enrolled_clinic_learns_who_it_is_and_which_plan_runs(door: Door) -> None:
    with door.client() as client:
        welcome = client.post(HELLO_PATH, headers=door.headers("munich")).json()
    assert (welcome["clinic"], welcome["role"], welcome["plan"]) == ("munich", "train", door.folder.study().hash)


def test_a_strangers_key_is_refused(door: Door) -> None:
    assert door.status(HELLO_PATH, door.headers("stranger")) == 401
    assert door.status("/v1/fleet/register-node", door.headers("stranger")) == 401


def test_a_request_without_a_signature_or_with_anothers_is_refused(door: Door) -> None:
    assert door.status("/v1/fleet/pull-messages") == 401
    stolen = door.headers("stranger") | {KEY_HEADER: door.headers("munich")[KEY_HEADER]}
    assert door.status(HELLO_PATH, stolen) == 401


def test_a_request_that_is_sent_again_is_refused(door: Door) -> None:
    headers = door.headers("munich")
    assert [door.status(HELLO_PATH, headers) for _ in range(2)] == [200, 401]


@pytest.mark.parametrize(("seconds", "status"), [(7, 401), (-310, 401), (-60, 200)])
def test_a_clock_may_be_behind_a_little_and_not_ahead(door: Door, seconds: float, status: int) -> None:
    key = read_private_key(door.keys / "munich")
    signed_at = (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()
    import base64

    pem = base64.b64encode(public_pem(key.public_key())).decode()
    headers = {KEY_HEADER: pem, TIME_HEADER: signed_at, SIGNATURE_HEADER: sign(key, signed_at.encode())}
    assert door.status(HELLO_PATH, headers) == status


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/docs",
        "/openapi.json",
        "/v1/control/start-run",
        "/v1/control/register-node",
        "/v1/control/list-nodes",
        "/v1/runtime/acquire-task",
        "/v1/runtime/get-nodes",
        "/v1/runtime/push-messages",
        "/v1/fleet/",
        "/v1/fleet/../control/start-run",
        "/v1/fleet/%2e%2e/control/start-run",
        "/v1/fleet/pull-messages/../../runtime/acquire-task",
        "/v1/fleet/start-run",
        "//v1/control/start-run",
    ],
)
def test_nothing_but_the_fleets_calls_passes_not_even_for_an_enrolled_clinic(door: Door, path: str) -> None:
    raw = httpx.URL(f"https://{door.address}").copy_with(raw_path=path.encode())
    with door.client() as client:
        assert client.post(raw, headers=door.headers("munich")).status_code == 404


def test_flowers_control_and_runtime_do_exist_behind_the_gateway(door: Door) -> None:
    """The paths above are real: the SuperLink on loopback knows them."""
    port = int(
        door.coordinator.kept[0].command.arguments[door.coordinator.kept[0].command.arguments.index("--port") + 1]
    )
    context = ssl.create_default_context(cafile=str(door.folder.authority))
    with httpx.Client(base_url=f"https://127.0.0.1:{port}", verify=context, trust_env=False) as client:
        for path in ("/v1/control/start-run", "/v1/runtime/acquire-task", "/v1/fleet/pull-messages"):
            assert client.post(path).status_code != 404


def test_a_body_over_the_limit_is_refused_and_a_strangers_is_not_read(door: Door) -> None:
    too_much = bytes(int(door.folder.settings().max_body_megabytes * 1e6) + 1)
    assert door.status("/v1/fleet/push-object", door.headers("munich"), too_much) == 413
    assert door.status("/v1/fleet/push-object", door.headers("stranger"), too_much) == 401


def test_plain_http_and_old_tls_get_no_answer(door: Door) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://{door.address}{HEALTH_PATH}", trust_env=False)
    old = ssl.create_default_context(cafile=str(door.folder.authority))
    old.minimum_version = ssl.TLSVersion.TLSv1
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(httpx.TransportError):
        httpx.get(f"https://{door.address}{HEALTH_PATH}", verify=old, trust_env=False)


def test_the_superlink_itself_listens_on_loopback_alone(door: Door) -> None:
    arguments = list(door.coordinator.kept[0].command.arguments)
    assert arguments[arguments.index("--host") + 1] == "127.0.0.1"
    assert {"--enable-supernode-auth", "--disable-runtime-dependency-installation"} <= set(arguments)
    assert arguments[arguments.index("--isolation") + 1] == "process"


def test_a_key_that_flower_has_and_the_register_lost_the_number_of_is_found_again(door: Door) -> None:
    """As after a coordinator that was ended between the two; Flower takes no key twice."""
    register = read_register(door.folder.register_file)
    lost = [entry.model_copy(update={"node_id": None}) for entry in register.enrolments]
    write_register(door.folder.register_file, register.model_copy(update={"enrolments": tuple(lost)}))
    door.coordinator._synchronise()
    assert read_register(door.folder.register_file) == register
    assert None not in [entry.node_id for entry in register.enrolments]


def test_a_running_supernode_is_out_as_soon_as_its_key_is_revoked(door: Door, tmp_path: Path) -> None:
    node = KeptProcess(_supernode(door, "vienna", tmp_path))
    try:
        node.look()
        wait_for(lambda: "online" in _statuses(door), 60)
        with changing(door.folder.register_file):
            write_register(door.folder.register_file, read_register(door.folder.register_file).revoke("vienna"))
        began = time.monotonic()
        wait_for(lambda: not node.runs, 60)
        assert time.monotonic() - began < 30  # a heartbeat
        assert door.status(HELLO_PATH, door.headers("vienna")) == 401
        door.coordinator._synchronise()
        assert "online" not in _statuses(door)
    finally:
        node.end()


def _fleet_call(door: Door, clinic: str, call: str, message: ProtobufMessage, timeout: float = 10.0) -> httpx.Response:
    headers = door.headers(clinic) | {"content-type": "application/protobuf", "accept": "application/protobuf"}
    with door.client(timeout=timeout) as client:
        return client.post(f"/v1/fleet/{call}", headers=headers, content=message.SerializeToString())


def test_only_a_clinic_itself_can_have_it_noted_that_it_is_idle(door: Door) -> None:
    deployment = Deployment(door.folder.link)
    rung = deployment.tasks.ring()
    public = public_pem(read_private_key(door.keys / "munich").public_key())
    activated = _fleet_call(
        door, "munich", "activate-node", ActivateNodeRequest(public_key=public, heartbeat_interval=30)
    )
    node = ActivateNodeResponse.FromString(activated.content).node_id
    asks = PullMessagesRequest(node=FlowerNode(node_id=node))
    assert _fleet_call(door, "vienna", "pull-messages", asks).status_code == 401
    assert deployment.idle("munich").last() == deployment.idle("vienna").last() == 0
    with pytest.raises(httpx.ReadTimeout):  # it is kept waiting
        _fleet_call(door, "munich", "pull-messages", asks, timeout=2.0)
    assert deployment.idle("munich").last() == rung
    assert deployment.idle("vienna").last() == 0
    _fleet_call(door, "munich", "deactivate-node", DeactivateNodeRequest(node_id=node))


def _pushed(node: int, **metadata: object) -> PushMessagesRequest:
    """A node's answer to a task, but for what is told."""
    about = {"run_id": 1, "message_id": "m", "reply_to_message_id": "task", "message_type": "train", "ttl": 9.0}
    about |= {"src_node_id": node, "dst_node_id": SUPERLINK_NODE_ID, "created_at": time.time()}
    message = ProtobufTask(metadata=Metadata(**{**about, **metadata}))
    return PushMessagesRequest(node=FlowerNode(node_id=node), messages_list=[message])


@pytest.mark.parametrize(
    "metadata",
    [
        {"reply_to_message_id": "", "src_node_id": SUPERLINK_NODE_ID, "dst_node_id": 7},  # Flower would hand it to 7
        {"reply_to_message_id": ""},
        {"dst_node_id": 7},
        {"src_node_id": 7},
    ],
    ids=["a task to another clinic", "no answer", "to another clinic", "in another's name"],
)
def test_a_clinic_can_push_nothing_but_its_own_answers(door: Door, metadata: dict[str, object]) -> None:
    refused = _fleet_call(door, "munich", "push-messages", _pushed(5, **metadata))
    assert (refused.status_code, "munich" in refused.text) == (403, True)


def test_a_push_that_cannot_be_read_is_refused_and_an_answer_goes_on_to_the_superlink(door: Door) -> None:
    assert door.status("/v1/fleet/push-messages", door.headers("munich"), b"\xff not protobuf") == 400
    check_push(_pushed(5).SerializeToString(), "munich")
    answered = _fleet_call(door, "munich", "push-messages", _pushed(5))
    assert answered.status_code == 401  # of the SuperLink, as node 5 is not munich's


@dataclass
class Asking:
    """A node's request for a task, at a gateway whose SuperLink answers as it is told."""

    folder: Path
    answers: list[Callable[[], bytes]]
    is_gone: bool = False
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> httpx.URL:
        return httpx.URL("https://link/v1/fleet/pull-messages")

    @property
    def deployment(self) -> Deployment:
        return Deployment(self.folder)

    async def is_disconnected(self) -> bool:
        return self.is_gone

    def ask(self) -> bytes:
        """What the node is answered in the end."""
        transport = httpx.MockTransport(lambda request: httpx.Response(200, content=self.answers.pop(0)()))
        gateway = Gateway(
            folder=StudyFolder(self.folder),
            doorkeeper=SimpleNamespace(check_enrolled=lambda headers: None),  # type: ignore[arg-type]
            link=httpx.AsyncClient(transport=transport, base_url="https://link"),
            deployment=self.deployment,
            max_body_bytes=1,
            bundle="b",
            is_closing=lambda: False,
        )
        return bytes(asyncio.run(gateway._await_message("east", self, b"")).body)  # type: ignore[arg-type]


def test_a_node_that_gets_a_task_is_not_idle(tmp_path: Path) -> None:
    asking = Asking(tmp_path, [lambda: b"task"])
    asking.deployment.tasks.ring()
    assert asking.ask() == b"task"
    assert asking.deployment.idle("east").last() == 0


def test_a_node_is_idle_as_of_the_tasks_that_were_there_when_it_asked(tmp_path: Path) -> None:
    """A task that comes while Flower says that there is none is not one of them."""
    rung: list[int] = []

    def none_yet() -> bytes:
        rung.append(asking.deployment.tasks.ring())
        return b""

    asking = Asking(tmp_path, [none_yet, lambda: b"task"])
    before = asking.deployment.tasks.ring()
    assert asking.ask() == b"task"
    assert asking.deployment.idle("east").last() == before < rung[0]


def test_a_node_that_is_gone_when_the_answer_comes_is_not_idle(tmp_path: Path) -> None:
    """It may have asked again in the meantime, and have a task."""
    asking = Asking(tmp_path, [lambda: b""], is_gone=True)
    asking.deployment.tasks.ring()
    assert asking.ask() == b""
    assert asking.deployment.idle("east").last() == 0


def _statuses(door: Door) -> set[str]:
    return {node.status for node in door.coordinator.flower.nodes().values()}


def _supernode(door: Door, clinic: str, folder: Path) -> Command:
    arguments = [
        str(Path(sys.executable).with_name("flower-supernode")),
        *("--superlink", door.address, "--root-certificates", str(door.folder.authority)),
        *("--auth-supernode-private-key", str(door.keys / clinic), "--isolation", "process"),
        *("--host", "127.0.0.1", "--port", str(free_port())),
    ]
    return Command("supernode", arguments, flower_environment(folder), folder / "node.log")


def test_an_expired_certificate_is_named(door: Door, tmp_path: Path) -> None:
    from wbc_client.node.connection import ask_health
    from wbc_client.site import CoordinatorSettings
    from wbc_common.errors import ConnectionFailure

    old = make_folder(tmp_path / "old", hosts=["localhost"], port=free_port(), bind="127.0.0.1", study=None)
    authority = read_issued(old.authority, old.authority_key)
    make_server_certificate(authority, ["localhost"], days=-2).write(old.certificate, old.certificate_key)
    module = [sys.executable, "-m", "wbc_server.link.gateway", str(old.path), "--link-port", "1", "--bundle", "b"]
    gateway: subprocess.Popen[bytes] = spawn(
        Command("gateway", module, flower_environment(tmp_path), tmp_path / "gateway.log")
    )
    coordinator = CoordinatorSettings(address=f"localhost:{old.settings().port}", ca=old.authority, key=tmp_path)
    try:
        wait_for(lambda: _failure(coordinator) != "nothing listens there", 60)
        with pytest.raises(ConnectionFailure, match="certificate has expired") as refused:
            ask_health(coordinator)
        assert "renew" in refused.value.remedy
    finally:
        end_group(gateway)


def _failure(coordinator: object) -> str:
    from wbc_client.node.connection import ask_health
    from wbc_common.errors import ConnectionFailure

    try:
        ask_health(coordinator)  # type: ignore[arg-type]
    except ConnectionFailure as error:
        return error.problem.split(": ", 1)[1].split(" (")[0]
    return ""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("another authority", "not of the study's authority"),
        ("another name", "for another name"),
        ("nobody there", "nothing listens there"),
    ],
)
def test_a_clinic_is_told_what_is_wrong_with_the_way(door: Door, tmp_path: Path, change: str, words: str) -> None:
    from wbc_client.site import CoordinatorSettings
    from wbc_server.link.certificates import make_authority

    address, ca = door.address, door.folder.authority
    if change == "another authority":
        ca = tmp_path / "ca.pem"
        make_authority("other").write(ca, tmp_path / "private" / "ca.key")
    elif change == "another name":
        address = address.replace("localhost", "127.0.0.1")
    else:
        address = f"localhost:{free_port()}"
    assert words in _failure(CoordinatorSettings(address=address, ca=ca, key=tmp_path))
