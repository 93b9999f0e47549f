"""A SuperNode out of step is seen by its log, once for each time."""

import inspect
from pathlib import Path

import httpx
import pytest

from wbc_client.node.step import OUT_OF_STEP, StepWatch

LOST = "INFO :      Run ID 7 is not in `RUNNING` status. Ignoring message abc.\n"


def test_a_forgotten_message_is_seen_once_and_what_was_before_is_not(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(LOST)
    watch = StepWatch(log, log.stat().st_size)
    assert watch.in_step()
    with log.open("a") as file:
        file.write("INFO : fine\n" + LOST)
    assert [watch.in_step(), watch.in_step()] == [False, True]


def test_a_line_in_the_making_is_read_when_it_is_whole(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(LOST[:60])
    watch = StepWatch(log)
    assert watch.in_step()
    with log.open("a") as file:
        file.write(LOST[60:])
    assert not watch.in_step()


def test_a_log_that_was_put_aside_is_read_from_its_new_beginning(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("x" * 500 + "\n")
    watch = StepWatch(log)
    assert watch.in_step()
    log.write_text(LOST)
    assert not watch.in_step()


def test_a_log_that_is_gone_says_nothing_and_the_next_one_is_read_from_its_beginning(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("fine\n")
    watch = StepWatch(log)
    assert watch.in_step()
    log.rename(tmp_path / "aside")
    assert watch.in_step()
    log.write_text("fine again\n" + LOST)
    assert not watch.in_step()


def test_a_reply_that_came_too_late_for_its_run_leaves_the_node_in_step(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("INFO :      Run ID 7 is not in `RUNNING` status. Ignoring reply message abc.\n")
    assert StepWatch(log).in_step()


@pytest.mark.parametrize(
    "line", ["ERROR :     SSL/TLS handshake error detected.\n", "ERROR :     Failed to send message abc: [SSL] EOF\n"]
)
def test_a_connection_that_was_taken_and_dropped_leaves_a_node_that_must_start_again(tmp_path: Path, line: str) -> None:
    log = tmp_path / "log"
    log.write_text(line)
    assert not StepWatch(log).in_step()


def test_flowers_supernode_says_it_in_these_words() -> None:
    from flwr.supercore.retry import http_retry
    from flwr.supernode import fleet_http_connection, start_client_internal

    source = "".join(map(inspect.getsource, (start_client_internal, fleet_http_connection, http_retry)))
    assert '"Run ID %s is not in `RUNNING` status. Ignoring message %s."' in source
    assert '"Failed to receive message %s: %s"' in source
    assert all(words in source for words in OUT_OF_STEP if not words.endswith(" error '"))


@pytest.mark.parametrize("status", [404, 413, 500, 505])
def test_a_node_that_gave_up_at_an_answer_must_start_again(tmp_path: Path, status: int) -> None:
    """Flower writes down what httpx says."""
    answer = httpx.Response(status, request=httpx.Request("POST", "https://fl.example.org/v1/fleet/pull-messages"))
    with pytest.raises(httpx.HTTPStatusError) as gave_up:
        answer.raise_for_status()
    log = tmp_path / "log"
    log.write_text(f"[91mERROR [0m:     {gave_up.value}\n")
    assert not StepWatch(log).in_step()
