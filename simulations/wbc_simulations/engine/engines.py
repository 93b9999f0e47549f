"""The engines of a simulation: the same ServerApp and ClientApp that hospitals run, without a network between them.

`in-process` (default) is a Grid of our own on Flower's public API: messages are answered when their replies are asked
for, in this process, up to six clinics side by side that share the cores (`side_by_side`), so that few updates are in
memory at a time and a round costs milliseconds beyond its training. `ray` is Flower's own simulation engine, for
studies that one process, or one machine, is too small for.
"""

import importlib.util
import logging
import os
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from wbc_client.location import NODE_KEY, clinic_files
from wbc_common.errors import ConnectionFailure, SettingError
from wbc_server.run_folder import RUN_KEY, RunFolder
from wbc_simulations.engine.side_by_side import Crew, Job, crew_for_this_machine, results_in_order

EngineName = Literal["in-process", "ray"]
_RUN_ID = 1
_ANSWER_SECONDS = 5.0  # for the head of a Ray cluster to take a connection


class InProcessGrid(Grid):
    """Hands each message to the ClientApp as its reply is asked for.

    Args:
        client_app: the unmodified ClientApp.
        node_configs: node id → Flower's configuration of that node.
        crew: how many clinics work at a time; one after the other by default.
    """

    def __init__(
        self, client_app: ClientApp, node_configs: dict[int, dict[str, str]], crew: Crew | None = None
    ) -> None:
        _identify()
        self._crew = crew or Crew(workers=1, threads_each=1)
        self._client_app = client_app
        self._run = Run.create_empty(_RUN_ID)
        self._sent = 0
        self._pending: dict[str, Message] = {}
        self._contexts = {
            node: Context(_RUN_ID, node, dict(config), RecordDict(), {}) for node, config in node_configs.items()
        }

    def set_run(self, run: Run) -> None:
        """Keep the run."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message to a node."""
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        """All nodes; in process none is ever away."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Keep messages until their replies are pulled."""
        return [self._keep(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies to pushed messages in their order, computed as they are taken and a few ahead."""
        messages = [self._pending.pop(name) for name in message_ids if name in self._pending]
        yield from results_in_order([self._job(message) for message in messages], self._crew)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Replies in the order of the messages, each computed as it is taken. Nothing is late here: no timeout."""
        return iter(self.pull_messages(self.push_messages(messages)))

    def _keep(self, message: Message) -> str:
        self._sent += 1
        message_id = f"in-process-{self._sent}"
        message.metadata.__dict__["_message_id"] = message_id
        self._pending[message_id] = message
        return message_id

    def _job(self, message: Message) -> Job[Message]:
        metadata = message.metadata
        return Job((metadata.dst_node_id, metadata.message_type), lambda: self._deliver(message))

    def _deliver(self, message: Message) -> Message:
        return self._client_app(message, self._contexts[message.metadata.dst_node_id])


def check_engine(engine: EngineName, ray_address: str | None = None) -> None:
    """Check that an engine can be used, before a folder or a cell is made for it.

    Raises:
        SettingError: a cluster is named for the engine that runs in this process, or Ray is not installed.
        ConnectionFailure: nobody answers at the address of the cluster.
    """
    _refuse_address(engine, ray_address)
    if engine != "ray":
        return
    if importlib.util.find_spec("ray") is None:
        raise SettingError("engine 'ray' is not installed", remedy='pip install "wbc-fl[simulation]"')
    address = ray_address or os.environ.get("RAY_ADDRESS")
    if address:
        _check_answers(address)


def _refuse_address(engine: EngineName, ray_address: str | None) -> None:
    if ray_address and engine != "ray":
        raise SettingError("--ray-address is for the engine 'ray'", remedy="add --engine ray, or leave the address out")


def _check_answers(address: str) -> None:
    """Connect to the head once; an address without host and port ("auto") is Ray's own to find."""
    try:
        found = urlsplit(address if "//" in address else f"//{address}")
        if found.hostname and found.port:
            socket.create_connection((found.hostname, found.port), timeout=_ANSWER_SECONDS).close()
    except (OSError, ValueError) as error:
        raise ConnectionFailure(
            f"cannot use Ray at {address}: {error}",
            remedy="start the cluster's head (ray start --head) and give its address: --ray-address HOST:PORT",
        ) from error


def run_study(folder: RunFolder, clinic_folder: Path, engine: EngineName, *, ray_address: str | None = None) -> None:
    """Run the study of a folder to its end.

    Args:
        folder: holds study.toml, and the journal of an interrupted run.
        clinic_folder: one clinic file per clinic.
        engine: which engine.
        ray_address: of a Ray cluster to run on; see `ray_engine`.

    Raises:
        SettingError: a cluster is named for the engine that runs in this process.
    """
    _refuse_address(engine, ray_address)
    from wbc_client.app import app as client_app
    from wbc_server.app import app as server_app

    _quieten_flower()
    if engine == "ray":
        from wbc_simulations.engine.on_ray import run_under_ray

        run_under_ray(folder, clinic_folder, server_app, client_app, ray_address)
        return
    nodes = {number: {NODE_KEY: str(path)} for number, path in enumerate(clinic_files(clinic_folder), start=1)}
    context = Context(_RUN_ID, SUPERLINK_NODE_ID, {}, RecordDict(), {RUN_KEY: str(folder.path)})
    server_app(InProcessGrid(client_app, nodes, crew_for_this_machine()), context)


def _identify() -> None:
    """Flower's Message reads who sends it from a process-wide identity: the one private touch point of this engine."""
    TaskIdentity.run_id = _RUN_ID
    TaskIdentity.node_id = SUPERLINK_NODE_ID
    TaskIdentity.task_id = _RUN_ID


def _quieten_flower() -> None:
    """No telemetry, no update check; Flower's own log only where something is wrong."""
    os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    logging.getLogger("flwr").setLevel(logging.ERROR)
