"""Flower's command line, as the coordinator uses it: register and remove nodes, submit, watch and stop a run.

These are Flower's documented commands with `--format json`, pointed at the SuperLink on loopback by a configuration of
the study's own. The one exception is the list of nodes, which the command prints without their keys: it is asked of the
Control API, as the command does. Nothing here is reachable for a clinic.
"""

import json
import ssl
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import tomli_w
from flwr.proto.control_pb2 import ListNodesRequest, ListNodesResponse
from google.protobuf.message import DecodeError

from wbc_common.errors import ConnectionFailure
from wbc_common.processes import flower_command

_CONNECTION = "study"
_SECONDS = 60.0
_LIST_NODES, _PROTOBUF = "/v1/control/list-nodes", "application/protobuf"


class FlowerUnreachable(ConnectionFailure):
    """Flower's command line got no answer, or a refusal: while the SuperLink starts or starts again."""


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
class FlowerCli:
    """Flower's commands against one SuperLink, whose certificate is of the study's authority."""

    environment: Mapping[str, str]
    port: int
    authority: Path

    def register(self, key: str, clinic: str) -> int:
        """Register a clinic's key; returns the node's number."""
        with tempfile.NamedTemporaryFile("w", suffix=".pub", encoding="utf-8") as file:
            file.write(key + "\n")
            file.flush()
            return int(self._ask("supernode", "register", file.name, _CONNECTION, "--name", clinic)["node-id"])

    def unregister(self, node_id: int) -> None:
        """Remove a node: it can no longer take messages."""
        self._ask("supernode", "unregister", str(node_id), _CONNECTION)

    def nodes(self) -> dict[bytes, Node]:
        """Public key, as Flower has it → its node; removed ones too."""
        context = ssl.create_default_context(cafile=str(self.authority))
        try:
            answer = httpx.post(
                f"https://127.0.0.1:{self.port}{_LIST_NODES}",
                content=ListNodesRequest().SerializeToString(),
                headers={"content-type": _PROTOBUF, "accept": _PROTOBUF},
                verify=context,
                trust_env=False,
                timeout=_SECONDS,
            ).raise_for_status()
            listed = ListNodesResponse.FromString(answer.content).nodes_info
        except (httpx.HTTPError, DecodeError) as error:
            raise FlowerUnreachable(
                f"the SuperLink does not list its nodes: {error}",
                remedy="see link/superlink.log in the study's folder",
            ) from error
        return {node.public_key: Node(node.node_id, node.status) for node in listed}

    def submit(self, app: Path) -> int:
        """Start a run of an app's folder; returns its number."""
        return int(self._ask("run", str(app), _CONNECTION)["run-id"])

    def run_status(self, run_id: int) -> str:
        """A run's status, such as `running` or `finished:failed`."""
        return str(self._ask("list", _CONNECTION, "--run-id", str(run_id))["runs"][0]["status"])

    def stop(self, run_id: int) -> None:
        """Stop a run."""
        self._ask("stop", str(run_id), _CONNECTION)

    def _ask(self, *arguments: str) -> dict[str, Any]:
        command = [flower_command("flwr"), *arguments, "--format", "json"]
        try:
            done = subprocess.run(
                command, env=dict(self.environment), capture_output=True, text=True, check=False, timeout=_SECONDS
            )
            answer: dict[str, Any] = json.loads(done.stdout)
        except (subprocess.TimeoutExpired, ValueError) as error:
            raise FlowerUnreachable(
                f"flwr {' '.join(arguments[:2])} gave no answer", remedy="see link/superlink.log in the study's folder"
            ) from error
        if not answer.get("success"):
            raise FlowerUnreachable(
                f"flwr {' '.join(arguments[:2])} failed: {answer.get('error-message', done.stderr)}",
                remedy="see link/superlink.log in the study's folder",
            )
        return answer


def write_connection(flower_home: Path, port: int, authority: Path) -> None:
    """Point Flower's command line at the SuperLink on loopback."""
    flower_home.mkdir(parents=True, exist_ok=True)
    connection = {"address": f"127.0.0.1:{port}", "root-certificates": str(authority)}
    text = tomli_w.dumps({"superlink": {"default": _CONNECTION, _CONNECTION: connection}})
    (flower_home / "config.toml").write_text(text, encoding="utf-8")
