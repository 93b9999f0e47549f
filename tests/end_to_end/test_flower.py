"""What the coordinator asks of Flower, of a real SuperLink."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from wbc_common.keys import make_key, public_pem, read_public_key
from wbc_server.link.coordinator import Coordinator
from wbc_server.link.flower import FlowerControl, FlowerUnreachable
from wbc_server.link.setup import make_folder
from wbc_server.link.starting import free_port, prepare

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    """One whose SuperLink alone runs."""
    place = tmp_path_factory.mktemp("study") / "study"
    folder = make_folder(place, hosts=["localhost"], port=free_port(), bind="127.0.0.1", study=None)
    made = prepare(folder, lambda line: None)
    superlink = made.kept[0]
    superlink.look()
    while not superlink.command.healthy():
        superlink.look()
    yield made
    superlink.end()


@pytest.fixture(scope="module")
def flower(coordinator: Coordinator) -> FlowerControl:
    return coordinator.flower


@pytest.fixture
def pem(tmp_path: Path) -> bytes:
    return public_pem(read_public_key(make_key(tmp_path / "clinic.key", "munich")))


def test_a_key_is_registered_and_removed(flower: FlowerControl, pem: bytes) -> None:
    number = flower.register(pem, "munich")
    assert flower.nodes()[pem].number == number
    assert flower.nodes()[pem].is_registered
    flower.unregister(number)
    assert not flower.nodes()[pem].is_registered


def test_a_refusal_is_said_with_flowers_reason(flower: FlowerControl, pem: bytes) -> None:
    flower.register(pem, "vienna")
    with pytest.raises(FlowerUnreachable, match=r"refuses register-node: \d+ .*in use"):
        flower.register(pem, "vienna")


def test_a_run_is_submitted_seen_and_stopped(coordinator: Coordinator, flower: FlowerControl) -> None:
    run = flower.submit(coordinator.app)
    assert not flower.has_finished(run)
    flower.stop(run)
    assert flower.has_finished(run)


def test_no_answer_is_said(flower: FlowerControl) -> None:
    nobody = FlowerControl(flower.environment, 9, flower.authority)
    with pytest.raises(FlowerUnreachable, match="does not answer list-nodes"):
        nobody.nodes()
