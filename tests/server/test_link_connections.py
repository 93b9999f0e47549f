"""Connections of strangers to a real gateway: silent ones end, and one address has not all of them."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tomli_w

from federations import wait_for
from wbc_common.link import HEALTH_PATH
from wbc_server.link import gateway
from wbc_server.link.connections import GuardedProtocol, address_of
from wbc_server.link.folder import StudyFolder
from wbc_server.link.setup import make_folder
from wbc_server.link.starting import free_port, listens

HEAD_SECONDS = 0.6
ASK = f"GET {HEALTH_PATH} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
Knock = Callable[..., ssl.SSLSocket]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StudyFolder]:
    """Of a gateway that runs, for at most 4 connections, 2 of them of one address; its SuperLink is away."""
    monkeypatch.setattr(GuardedProtocol, "head_seconds", HEAD_SECONDS)
    monkeypatch.setattr(gateway, "_MOST_CONNECTIONS", 4)
    made = make_folder(tmp_path / "study", hosts=["localhost"], port=free_port(), bind="127.0.0.1", study=None)
    settings = made.settings().model_dump(mode="json") | {"connections_per_address": 2}
    made.settings_file.write_bytes(tomli_w.dumps(settings).encode())
    server = gateway.build_server(made, link_port=1, bundle="b")
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_for(lambda: listens("127.0.0.1", made.settings().port), 20)
        yield made
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def knock(folder: StudyFolder) -> Iterator[Knock]:
    """Opens a connection over TLS."""
    context = ssl.create_default_context(cafile=str(folder.authority))
    opened: list[ssl.SSLSocket] = []

    def connect(source: str = "127.0.0.1") -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", folder.settings().port), 10, source_address=(source, 0))
        opened.append(context.wrap_socket(plain, server_hostname="localhost"))
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()


def is_closed(connection: ssl.SSLSocket, seconds: float) -> bool:
    """Whether the other side ends it within so many seconds, without a word."""
    connection.settimeout(seconds)
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def answer(connection: ssl.SSLSocket) -> bytes:
    connection.settimeout(10)
    connection.sendall(ASK)
    found = b""
    while not found.endswith(b"}") and (more := connection.recv(4096)):
        found += more
    return found


def test_a_connection_that_says_nothing_ends(knock: Knock) -> None:
    connection = knock()
    assert not is_closed(connection, HEAD_SECONDS / 3)
    assert is_closed(connection, 5)


@pytest.mark.parametrize("requests_before", [0, 1])
def test_a_head_that_comes_drop_by_drop_ends_its_connection(knock: Knock, requests_before: int) -> None:
    connection = knock()
    for _ in range(requests_before):
        assert b"starting" in answer(connection)
    began, ended = time.monotonic(), False
    connection.sendall(ASK[:-4])
    while not ended and time.monotonic() - began < 10:
        try:
            connection.sendall(b"\r\nX-More: yes")
            ended = is_closed(connection, 0.1)
        except OSError:
            ended = True
    assert ended
    assert time.monotonic() - began < 5


def test_a_clinics_connection_stays_open_between_its_requests(knock: Knock) -> None:
    connection = knock()
    assert b"starting" in answer(connection)
    time.sleep(2 * HEAD_SECONDS)
    assert b"starting" in answer(connection)


def test_silent_connections_do_not_keep_a_clinic_out(knock: Knock) -> None:
    silent = [knock() for _ in range(4)]
    assert b"starting" not in answer(knock())  # uvicorn's own refusal
    assert all(is_closed(connection, 5) for connection in silent)
    assert b"starting" in answer(knock())


def test_one_address_has_only_so_many_connections_and_this_machine_as_many_as_it_likes(knock: Knock) -> None:
    first, second = (knock("127.0.0.2") for _ in range(2))
    assert b"starting" in answer(first)
    assert b"starting" in answer(second)
    assert is_closed(knock("127.0.0.2"), HEAD_SECONDS / 3)
    assert b"starting" in answer(knock("127.0.0.1"))
    first.close()
    time.sleep(0.2)
    assert b"starting" in answer(knock("127.0.0.2"))


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:0:1::7", "2001:db8:0:1::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("127.0.0.1", None),
        ("::ffff:127.0.0.1", None),
        ("::1", None),
    ],
)
def test_an_address_is_a_host_or_a_network_of_ipv6(host: str, address: str | None) -> None:
    assert address_of((host, 1)) == address
