"""Asking the gateway: what cannot even be asked, and answers that are none, become errors with a next step."""

from pathlib import Path

import certifi
import httpx
import pytest

from wbc_client.node import connection
from wbc_client.node.connection import ask_health, say_hello
from wbc_client.site import CoordinatorSettings
from wbc_common.errors import ConnectionFailure, SettingError
from wbc_common.keys import make_key


@pytest.fixture
def coordinator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CoordinatorSettings:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    make_key(tmp_path / "clinic.key", "munich")
    return CoordinatorSettings(address="localhost:1", ca=Path(certifi.where()), key=tmp_path / "clinic.key")


@pytest.mark.parametrize("variable", ["ALL_PROXY", "HTTPS_PROXY"])
def test_a_socks_proxy_is_refused_with_what_to_use(
    coordinator: CoordinatorSettings, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "socks5://proxy:1080")
    with pytest.raises(SettingError, match="SOCKS proxy") as refused:
        ask_health(coordinator)
    assert "HTTP proxy" in refused.value.remedy


@pytest.mark.parametrize("proxy", ["socks4://me:hush@proxy:1080", "http://me:hush@proxy:port", "http://[::1"])
def test_a_proxys_address_that_is_none_is_refused_without_its_password(
    coordinator: CoordinatorSettings, proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    with pytest.raises(SettingError, match="proxy's address is none") as refused:
        ask_health(coordinator)
    assert "HTTPS_PROXY" in refused.value.remedy
    assert "hush" not in str(refused.value)


def test_an_address_that_is_none_is_refused(coordinator: CoordinatorSettings) -> None:
    with pytest.raises(SettingError, match=r"to fl\.\.org:443: its name is none"):
        ask_health(coordinator.model_copy(update={"address": "fl..org:443"}))


@pytest.mark.parametrize("content", [b"<html>Please log in</html>", b'{"clinic": "munich"}'])
def test_a_welcome_of_another_version_is_no_traceback(
    coordinator: CoordinatorSettings, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_request", lambda *_: httpx.Response(200, content=content))
    with pytest.raises(ConnectionFailure, match="words that this version does not know") as refused:
        say_hello(coordinator)
    assert "same version" in refused.value.remedy


@pytest.mark.parametrize(
    ("content", "why"),
    [(b'{"detail": "unknown key"}', "unknown key"), (b"<html>", "no reason given"), (b"[1]", "no reason given")],
)
def test_a_refusal_says_why_where_a_reason_came(
    coordinator: CoordinatorSettings, content: bytes, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = httpx.Response(403, content=content, headers={"content-type": "application/json"})
    monkeypatch.setattr(connection, "_request", lambda *_: answer)
    with pytest.raises(ConnectionFailure, match=rf"\(403\): {why}"):
        say_hello(coordinator)
