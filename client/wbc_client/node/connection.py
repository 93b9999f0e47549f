"""Asking the coordinator's gateway: one HTTPS request with the clinic's signature, and what each failure means.

The same way a SuperNode goes: the study's own authority, the host name checked, the proxy of the environment, the key
and the clock of this machine.
"""

import ssl
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime

import httpx
from pydantic import ValidationError

from wbc_client.site import CoordinatorSettings
from wbc_common.errors import ConnectionFailure, SettingError
from wbc_common.keys import read_private_key, signed_headers
from wbc_common.link import BANDWIDTH_PATH, HEALTH_PATH, HELLO_PATH, Welcome

_SECONDS = 15.0


@dataclass(frozen=True)
class Health:
    """The gateway's health, and by how much this machine's clock is ahead of the coordinator's."""

    link_is_up: bool
    clock_ahead_seconds: float


def ask_health(coordinator: CoordinatorSettings) -> Health:
    """Reach the gateway, without a signature.

    Raises:
        ConnectionFailure: naming the hop that failed.
    """
    answer = _request(coordinator, "GET", HEALTH_PATH, {})
    there = parsedate_to_datetime(answer.headers["date"]) if "date" in answer.headers else None
    now = datetime.now(there.tzinfo) if there else None
    ahead = (now - there).total_seconds() if now and there else 0.0
    return Health(answer.status_code == 200, ahead)


def say_hello(coordinator: CoordinatorSettings) -> Welcome:
    """Who we are to the coordinator, and which plan it runs.

    Raises:
        ConnectionFailure: the gateway is not reached, does not know the key, or is of another version.
    """
    answer = _request(coordinator, "POST", HELLO_PATH, signed_headers(read_private_key(coordinator.key)))
    _check_admitted(answer)
    try:
        return Welcome.model_validate_json(answer.content)
    except ValidationError as error:
        raise ConnectionFailure(
            f"{coordinator.address} welcomes us in words that this version does not know",
            remedy="run the same version of wbc-fl here and at the coordinator; else check the address, and the proxy",
        ) from error


def measure_bandwidth(coordinator: CoordinatorSettings) -> float:
    """Megabit a second from the coordinator, over one megabyte."""
    answer = _request(coordinator, "POST", BANDWIDTH_PATH, signed_headers(read_private_key(coordinator.key)))
    _check_admitted(answer)
    return 8e-6 * len(answer.content) / max(answer.elapsed.total_seconds(), 1e-6)


def _request(coordinator: CoordinatorSettings, method: str, path: str, headers: dict[str, str]) -> httpx.Response:
    try:
        context = ssl.create_default_context(cafile=str(coordinator.ca))
    except (OSError, ssl.SSLError) as error:
        raise SettingError(
            f"cannot read the authority's certificate {coordinator.ca}", remedy="ask the coordinator for ca.pem"
        ) from error
    url = f"https://{coordinator.address}{path}"
    try:
        with httpx.Client(verify=context, timeout=_SECONDS) as client:
            return client.request(method, url, headers=headers)
    except httpx.HTTPError as error:
        raise _explained(coordinator, error) from error
    except ImportError as error:  # httpx needs another package for it, wherever the coordinator is
        raise SettingError(
            "HTTPS_PROXY or ALL_PROXY names a SOCKS proxy, which is not supported",
            remedy="use an HTTP proxy: unset ALL_PROXY and set HTTPS_PROXY to its address, such as http://proxy:3128",
        ) from error
    except (httpx.InvalidURL, ValueError) as error:  # not quoted: a proxy's address may hold a password
        raise SettingError(
            f"no request can be made to {coordinator.address}: its name is none, or the proxy's address is none",
            remedy="check the address in the clinic file, and HTTPS_PROXY and ALL_PROXY (such as http://proxy:3128)",
        ) from error


def _check_admitted(answer: httpx.Response) -> None:
    if answer.status_code == 200:
        return
    why = _reason(answer)
    remedies = {
        "clock": "set the clock of this machine (NTP)",
        "key": "send your public key to the coordinator, who enrols it: wbc-server enrol",
    }
    remedy = next((text for word, text in remedies.items() if word in why), "ask the coordinator")
    raise ConnectionFailure(f"the coordinator refuses this clinic ({answer.status_code}): {why}", remedy=remedy)


def _reason(answer: httpx.Response) -> str:
    """Why the gateway refuses; a proxy between may refuse too, with a page of its own."""
    try:
        return str(answer.json()["detail"])
    except (ValueError, LookupError, TypeError):
        return "no reason given"


_MEANINGS = (
    ("certificate has expired", "the coordinator's certificate has expired", "ask for a new one: wbc-server renew"),
    ("not valid for", "the coordinator's certificate is for another name", "check the address in the clinic file"),
    ("mismatch", "the coordinator's certificate is for another name", "check the address in the clinic file"),
    (
        "certificate verify failed",
        "the certificate is not of the study's authority",
        "compare ca.pem with the coordinator's by telephone; someone may be listening in",
    ),
    ("Name or service not known", "its name is unknown", "check the address and this machine's DNS"),
    ("Temporary failure in name", "its name cannot be looked up", "check this machine's DNS"),
    ("refused", "nothing listens there", "check address and port; is the coordinator started?"),
    ("WRONG_VERSION_NUMBER", "what listens there speaks no TLS", "check the port, and any proxy between"),
    ("proxy", "the proxy refuses", "check HTTPS_PROXY and NO_PROXY"),
)


def _explained(coordinator: CoordinatorSettings, error: httpx.HTTPError) -> ConnectionFailure:
    text = str(error)
    found = next(((what, remedy) for word, what, remedy in _MEANINGS if word.lower() in text.lower()), None)
    what, remedy = found or ("no connection", "check address, firewall and proxy")
    return ConnectionFailure(f"{coordinator.address}: {what} ({text or type(error).__name__})", remedy=remedy)
