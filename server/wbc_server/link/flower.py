"""What the coordinator asks of Flower: register and remove nodes, submit, watch and stop a run.

All but one go to the SuperLink's Control API on loopback, as Flower's own commands do; such a command takes seconds to
start, and there is one a clinic. A run is submitted by `flwr run`, which bundles the app, pointed at the SuperLink by a
configuration of the study's own. Nothing here is reachable for a clinic.
"""

import json
import ssl
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import tomli_w
from flwr.common.constant import Status
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListNodesResponse,
    ListRunsRequest,
    ListRunsResponse,
    RegisterNodeRequest,
    RegisterNodeResponse,
    StopRunRequest,
    StopRunResponse,
    UnregisterNodeRequest,
    UnregisterNodeResponse,
)
from google.protobuf.message import DecodeError, Message

from wbc_common.errors import ConnectionFailure
from wbc_common.processes import flower_command

_CONNECTION = "study"
_SECONDS = 60.0
_PROTOBUF = "application/protobuf"
_SEE_LOG = "see link/superlink.log in the study's folder"
_LONGEST_REASON = 300

Answer = TypeVar("Answer", bound=Message)


class FlowerUnreachable(ConnectionFailure):
    """Flower gave no answer, or a refusal: while the SuperLink starts or starts again."""


@dataclass(frozen=True)
class Node:
    """A node that Flower knows: its number, and its status in Flower's words (registered, online, offline)."""

    number: int
    status: str

    @property
    def is_registered(self) -> bool:
        """Whether it may connect; a key that was once removed never may again."""
        return self.status != "unregistered"


@dataclass(frozen=True)
class FlowerControl:
    """Flower's Control API and its command `flwr run`, of one SuperLink, whose certificate is of the study's authority.

    Each call raises FlowerUnreachable where Flower gives no answer, or refuses.
    """

    environment: Mapping[str, str]
    port: int
    authority: Path

    def register(self, pem: bytes, clinic: str) -> int:
        """Register a clinic's public key; returns the node's number."""
        return self._ask(
            "register-node", RegisterNodeRequest(public_key=pem, name=clinic), RegisterNodeResponse
        ).node_id

    def unregister(self, node_id: int) -> None:
        """Remove a node: it can no longer take messages."""
        self._ask("unregister-node", UnregisterNodeRequest(node_id=node_id), UnregisterNodeResponse)

    def nodes(self) -> dict[bytes, Node]:
        """Public key, as Flower has it → its node; removed ones too."""
        listed = self._ask("list-nodes", ListNodesRequest(), ListNodesResponse).nodes_info
        return {node.public_key: Node(node.node_id, node.status) for node in listed}

    def submit(self, app: Path) -> int:
        """Start a run of an app's folder; returns its number."""
        command = [flower_command("flwr"), "run", str(app), _CONNECTION, "--format", "json"]
        try:
            done = subprocess.run(
                command, env=dict(self.environment), capture_output=True, text=True, check=False, timeout=_SECONDS
            )
            answer: dict[str, Any] = json.loads(done.stdout)
        except (subprocess.TimeoutExpired, ValueError) as error:
            raise FlowerUnreachable("flwr run gave no answer", remedy=_SEE_LOG) from error
        if not answer.get("success"):
            raise FlowerUnreachable(f"flwr run failed: {answer.get('error-message', done.stderr)}", remedy=_SEE_LOG)
        return int(answer["run-id"])

    def has_finished(self, run_id: int) -> bool:
        """Whether a run has come to its end, whichever."""
        runs = self._ask("list-runs", ListRunsRequest(run_id=run_id), ListRunsResponse).run_dict
        return str(runs[run_id].status.status) == Status.FINISHED

    def stop(self, run_id: int) -> None:
        """Stop a run."""
        self._ask("stop-run", StopRunRequest(run_id=run_id), StopRunResponse)

    def _ask(self, what: str, request: Message, answer: type[Answer]) -> Answer:
        try:
            replied = httpx.post(
                f"https://127.0.0.1:{self.port}/v1/control/{what}",
                content=request.SerializeToString(),
                headers={"content-type": _PROTOBUF, "accept": _PROTOBUF},
                verify=ssl.create_default_context(cafile=str(self.authority)),
                trust_env=False,
                timeout=_SECONDS,
            )
            if not replied.is_success:
                raise FlowerUnreachable(
                    f"the SuperLink refuses {what}: {replied.status_code} {replied.text[:_LONGEST_REASON]}",
                    remedy=_SEE_LOG,
                )
            read: Answer = answer.FromString(replied.content)
            return read
        except (httpx.HTTPError, DecodeError) as error:
            raise FlowerUnreachable(f"the SuperLink does not answer {what}: {error}", remedy=_SEE_LOG) from error


def write_connection(flower_home: Path, port: int, authority: Path) -> None:
    """Point Flower's command line at the SuperLink on loopback."""
    flower_home.mkdir(parents=True, exist_ok=True)
    connection = {"address": f"127.0.0.1:{port}", "root-certificates": str(authority)}
    text = tomli_w.dumps({"superlink": {"default": _CONNECTION, _CONNECTION: connection}})
    (flower_home / "config.toml").write_text(text, encoding="utf-8")
