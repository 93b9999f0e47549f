"""A grid whose nodes answer by a script, for the tests of who is there."""

from collections.abc import Callable, Iterable
from pathlib import Path

from flwr.app import Message, RecordDict
from flwr.supercore.run import Run
from flwr.superlink.grid import HttpGrid

from links import RememberingLink
from wbc_common.wire import Task, encode_task
from wbc_common.wire.packing import make_parcel, open_parcel, pack
from wbc_server.exchange.attendance import AttendingGrid
from wbc_server.exchange.deployment import Deployment
from wbc_simulations.engine.engines import InProcessGrid

NODES = {1: "east", 2: "north", 3: "west"}
Answer = Callable[[Message], Message | None]


class ScriptedGrid(HttpGrid):
    """Flower's own Grid over a SuperLink and the nodes behind it, which answer as their scripts say.

    A script says None while its node works. A node that has answered asks for the next task, as does one in
    `empty_handed`, which lost what it was given: the gateway then notes that it is idle.
    """

    def __init__(self, deployment: Deployment, answers: dict[int, Answer], there: Iterable[int] = NODES) -> None:
        InProcessGrid(lambda message, context: message, {})  # type: ignore[arg-type]  # gives messages a sender
        super().__init__(token="token")
        self.set_run(Run.create_empty(1))
        self._client = self.link = RememberingLink()  # type: ignore[assignment]
        self.deployment = deployment
        self.answers = answers
        self.there = set(there)
        self.empty_handed: set[int] = set()
        self.pulled: list[list[str]] = []

    @property
    def sent(self) -> list[Message]:
        """What nodes were asked, as they find it."""
        return [self.link.message(name) for name in self.link.asked]

    def get_node_ids(self) -> list[int]:
        self.work()
        return sorted(self.there)

    def work(self) -> None:
        for message in self.sent:
            node, name = message.metadata.dst_node_id, message.metadata.message_id
            if name not in self.link.replies and (reply := self.answers[node](message)):
                self.link.keep_reply(reply, name)
                self.asks_for_a_task(node)
        for node in self.empty_handed:
            self.asks_for_a_task(node)

    def asks_for_a_task(self, node: int) -> None:
        self.deployment.idle(NODES[node]).set(self.deployment.tasks.last())

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        wanted = list(message_ids)
        self.pulled.append(wanted)
        return super().pull_messages(wanted)


def echo(message: Message) -> Message:
    return Message(make_parcel(open_parcel(message.content)), reply_to=message)


def parcel(records: RecordDict) -> RecordDict:
    return make_parcel(b"".join(pack(records)))


def silent(message: Message) -> None:
    return None


def attending(folder: Path, answers: dict[int, Answer], **options: object) -> tuple[AttendingGrid, ScriptedGrid]:
    deployment = Deployment(folder)
    deployment.write(NODES)
    grid = ScriptedGrid(deployment, answers, **options)  # type: ignore[arg-type]
    return AttendingGrid(grid, deployment), grid


def exchange(grid: AttendingGrid, nodes: Iterable[int], timeout: float = 0.3) -> dict[int, Message]:
    records = encode_task(Task("describe", "hash"))
    messages = [Message(records, node, "query.describe") for node in nodes]
    return {reply.metadata.src_node_id: reply for reply in grid.send_and_receive(messages, timeout=timeout)}
