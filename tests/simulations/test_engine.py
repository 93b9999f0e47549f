"""The in-process engine, and a contract for each private thing of Flower that it touches."""

import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from wbc_common.errors import ConnectionFailure, SettingError
from wbc_simulations.engine import engines as engine
from wbc_simulations.engine.engines import InProcessGrid

Client = Callable[[Message, Context], Message]


def echo(message: Message, context: Context) -> Message:
    return Message(message.content, reply_to=message)


def grid_of(client: Client = echo, num_nodes: int = 3) -> InProcessGrid:
    return InProcessGrid(client, {node: {"clinic-config": f"{node}.toml"} for node in range(1, num_nodes + 1)})  # type: ignore[arg-type]


def to_all(grid: Grid) -> list[Message]:
    return [grid.create_message(RecordDict(), "train", node, "4") for node in grid.get_node_ids()]


# What of Flower is private and relied upon: an upgrade that changes it fails here first.


def test_contract_the_task_identity_can_be_set_and_names_the_sender_of_a_message() -> None:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 11, 12, 13
    try:
        metadata = Message(RecordDict(), 5, "train").metadata
        assert (metadata.run_id, metadata.src_node_id, metadata.dst_node_id) == (11, 12, 5)
    finally:
        engine._identify()
    assert (TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id) == (1, SUPERLINK_NODE_ID, 1)


def test_contract_a_message_gets_its_id_through_its_metadata() -> None:
    message = Message(RecordDict(), 5, "train")
    assert message.metadata.message_id == ""
    message.metadata.__dict__["_message_id"] = "sent-1"
    assert message.metadata.message_id == "sent-1"


def test_contract_a_reply_names_the_message_it_answers_and_comes_from_its_receiver() -> None:
    grid = grid_of()
    messages = to_all(grid)
    sent = list(grid.push_messages(messages))
    replies = list(grid.pull_messages(sent))
    assert len(set(sent)) == 3
    assert [reply.metadata.reply_to_message_id for reply in replies] == sent
    assert [reply.metadata.src_node_id for reply in replies] == [1, 2, 3]
    assert [reply.metadata.group_id for reply in replies] == ["4"] * 3


def test_contract_an_empty_run_can_be_made_and_replaced() -> None:
    grid = grid_of()
    assert grid.run.run_id == 1
    other = Run.create_empty(9)
    grid.set_run(other)
    assert grid.run is other


def test_contract_flower_is_told_to_be_silent_by_these_three_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("FLWR_TELEMETRY_ENABLED", "FLWR_DISABLE_UPDATE_CHECK", "RAY_USAGE_STATS_ENABLED")
    for name in names:
        monkeypatch.setenv(name, "unset")
    level = logging.getLogger("flwr").level
    try:
        engine._quieten_flower()
        assert [os.environ[name] for name in names] == ["0", "1", "0"]
        assert logging.getLogger("flwr").level == logging.ERROR
    finally:
        logging.getLogger("flwr").setLevel(level)


def test_contract_a_client_app_takes_the_message_types_of_every_task() -> None:
    from wbc_common.wire import MESSAGE_TYPES

    app = ClientApp()
    app.query("describe")(echo)
    app.query("stain_sums")(echo)
    app.train()(echo)
    app.evaluate()(echo)
    grid = InProcessGrid(app, {1: {}})
    for kind in MESSAGE_TYPES.values():
        (reply,) = grid.send_and_receive([grid.create_message(RecordDict(), kind, 1, "1")])
        assert not reply.has_error()


# What an engine needs is known before anything is made for it.


def test_an_engine_that_is_not_installed_and_a_cluster_where_nobody_answers_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("ray", reason='Ray comes with pip install ".[simulation]"')
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ConnectionFailure, match=r"cannot use Ray at 127\.0\.0\.1:1: .*refused"):
        engine.check_engine("ray", "127.0.0.1:1")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:99999")
    with pytest.raises(ConnectionFailure, match="--ray-address HOST:PORT"):
        engine.check_engine("ray")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SettingError, match="not installed"):
        engine.check_engine("ray", "auto")


def test_a_cluster_that_answers_and_one_that_ray_finds_itself_are_taken() -> None:
    pytest.importorskip("ray", reason='Ray comes with pip install ".[simulation]"')
    with socket.create_server(("127.0.0.1", 0)) as head:
        port = head.getsockname()[1]
        engine.check_engine("ray", f"127.0.0.1:{port}")
        engine.check_engine("ray", f"ray://127.0.0.1:{port}")
    engine.check_engine("ray", "auto")
    engine.check_engine("in-process")


# What the grid promises.


def test_replies_come_in_the_order_of_the_messages_with_their_content() -> None:
    grid = grid_of()
    contents = [RecordDict({"number": ConfigRecord({"value": node})}) for node in (3, 1, 2)]
    messages = [grid.create_message(content, "train", node, "1") for content, node in zip(contents, (3, 1, 2))]  # noqa: B905
    replies = list(grid.send_and_receive(messages))
    assert [reply.content["number"]["value"] for reply in replies] == [3, 1, 2]  # type: ignore[index]


def test_a_clinic_works_only_when_its_reply_is_taken() -> None:
    worked: list[int] = []

    def client(message: Message, context: Context) -> Message:
        worked.append(context.node_id)
        return echo(message, context)

    grid = grid_of(client)
    replies: Iterator[Message] = grid.send_and_receive(to_all(grid))
    assert worked == []
    next(replies)
    assert worked == [1]
    list(replies)
    assert worked == [1, 2, 3]


def test_each_node_keeps_its_own_configuration_and_state() -> None:
    seen: list[tuple[str, int]] = []

    def client(message: Message, context: Context) -> Message:
        visits = int(context.state["visits"]["n"]) if "visits" in context.state else 0  # type: ignore[index,arg-type]
        context.state["visits"] = ConfigRecord({"n": visits + 1})
        seen.append((str(context.node_config["clinic-config"]), visits))
        return echo(message, context)

    grid = grid_of(client, num_nodes=2)
    for _ in range(2):
        list(grid.send_and_receive(to_all(grid)))
    assert seen == [("1.toml", 0), ("2.toml", 0), ("1.toml", 1), ("2.toml", 1)]


def test_a_reply_is_given_once_and_an_unknown_id_gives_none() -> None:
    grid = grid_of()
    sent = list(grid.push_messages(to_all(grid)))
    assert len(list(grid.pull_messages([*sent, "never sent"]))) == 3
    assert list(grid.pull_messages(sent)) == []


def test_a_round_without_messages_is_empty_and_not_an_error() -> None:
    assert list(grid_of().send_and_receive([])) == []


def test_an_exception_in_a_client_app_stops_the_simulation_at_that_clinic() -> None:
    def client(message: Message, context: Context) -> Message:
        if context.node_id == 2:
            raise ZeroDivisionError("a bug of ours")
        return echo(message, context)

    grid = grid_of(client)
    replies = grid.send_and_receive(to_all(grid))
    next(replies)
    with pytest.raises(ZeroDivisionError, match="a bug of ours"):
        next(replies)


def test_the_clinics_own_app_answers_an_error_instead_of_raising() -> None:
    from wbc_client.app import app

    grid = InProcessGrid(app, {1: {}})
    (reply,) = grid.send_and_receive([grid.create_message(RecordDict(), "train", 1, "1")])
    assert reply.has_error()
    assert reply.error.reason.startswith("setting (reference ")
