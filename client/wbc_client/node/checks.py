"""`wbc-client check` on the way to the coordinator: each hop by name, each failure with its remedy.

In the order of the way out: key, disk, proxy, name, gateway and its certificate, clock, enrolment, plan, approval,
bandwidth. A hop that needs an earlier one which failed is left out.
"""

import os
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass

from wbc_client.node.approval import check_approved
from wbc_client.node.connection import ask_health, measure_bandwidth, say_hello
from wbc_client.site import Site
from wbc_common.errors import ConnectionFailure, PolicyError, WbcError
from wbc_common.keys import fingerprint, read_private_key
from wbc_common.link import CLOCK_AHEAD_SECONDS, CLOCK_BEHIND_SECONDS

_MIN_FREE_GIGABYTES = 1.0


@dataclass(frozen=True)
class Finding:
    """One hop: its name, what was found, and the error where it failed."""

    hop: str
    found: str
    error: WbcError | None = None


def check_way(site: Site) -> list[Finding]:
    """Every hop from this clinic to the coordinator."""
    reach = [_look("address", lambda: _resolve(site)), _look("gateway", lambda: _health(site))]
    findings = [_look("key", lambda: _key(site)), _look("disk", lambda: _disk(site)), _look("proxy", _proxy), *reach]
    if all(finding.error is None for finding in reach):
        findings += [
            _look("clock", lambda: _clock(site)),
            _look("enrolment", lambda: _enrolment(site)),
            _look("plan", lambda: _plan(site)),
            _look("bandwidth", lambda: f"{measure_bandwidth(site.node()):.0f} Mbit/s"),
        ]
    return [*findings, _look("approval", lambda: _approval(site))]


def _look(hop: str, find: Callable[[], str]) -> Finding:
    try:
        return Finding(hop, find())
    except WbcError as error:
        return Finding(hop, error.problem, error)


def _key(site: Site) -> str:
    return fingerprint(read_private_key(site.node().key).public_key())


def _disk(site: Site) -> str:
    site.state_dir.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(site.state_dir).free / 1e9
    if free < _MIN_FREE_GIGABYTES:
        raise WbcError(f"{free:.1f} GB free at {site.state_dir}", remedy=f"free {_MIN_FREE_GIGABYTES:g} GB there")
    return f"{free:.0f} GB free"


def _proxy() -> str:
    names = [name for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy") if os.environ.get(name)]
    return f"as {names[0]} says" if names else "none"


def _resolve(site: Site) -> str:
    coordinator = site.node()
    if _proxy() != "none":
        return f"{coordinator.host}, looked up by the proxy"
    try:
        found = socket.getaddrinfo(coordinator.host, coordinator.port, proto=socket.IPPROTO_TCP)
    except OSError as error:
        raise ConnectionFailure(
            f"the name {coordinator.host} is unknown", remedy="check the address and this machine's DNS"
        ) from error
    return f"{coordinator.host} is {found[0][4][0]}"


def _health(site: Site) -> str:
    up = ask_health(site.node()).link_is_up
    return f"{site.node().address} answers, its certificate is the study's" + ("" if up else "; it is starting")


def _clock(site: Site) -> str:
    ahead = ask_health(site.node()).clock_ahead_seconds
    if not -CLOCK_BEHIND_SECONDS < ahead < CLOCK_AHEAD_SECONDS:
        raise ConnectionFailure(f"this clock is off by {ahead:+.0f} s", remedy="set the clock of this machine (NTP)")
    return f"off by {ahead:+.0f} s"


def _enrolment(site: Site) -> str:
    welcome = say_hello(site.node())
    if welcome.clinic != site.clinic:
        raise ConnectionFailure(
            f"this key is enrolled as clinic {welcome.clinic}, the clinic file says {site.clinic}",
            remedy="use the name under which the coordinator enrolled the key",
        )
    return f"clinic {welcome.clinic}, {welcome.role}"


def _plan(site: Site) -> str:
    there, here = say_hello(site.node()).plan, site.read_study().hash
    if there != here:
        raise PolicyError(
            f"the coordinator runs plan {there[:12]}, {site.study.name} here is {here[:12]}",
            remedy="ask for the plan that runs, read it, approve it",
        )
    return f"{here[:12]}, the same here and there"


def _approval(site: Site) -> str:
    check_approved(site)
    return "this plan is approved here"
