"""Preparing and starting a coordinator: what must be true first, then the command lines of its processes.

Only the gateway is reachable from outside. The SuperLink gets a port of its own on loopback at each start, node
authentication, a secret that its SuperExec must know, its state in SQLite, and no right to install anything.
"""

import ipaddress
import logging
import secrets
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import httpx

from wbc_common.bundle import Bundle, build_bundle, write_app
from wbc_common.errors import SettingError
from wbc_common.files import write_secret
from wbc_common.link import HEALTH_PATH
from wbc_common.locks import holding
from wbc_common.processes import Command, KeptProcess, flower_command, flower_environment
from wbc_common.study import StudyConfig, write_study
from wbc_server.exchange.deployment import Deployment
from wbc_server.link.certificates import days_left
from wbc_server.link.coordinator import Coordinator
from wbc_server.link.flower import FlowerControl, write_connection
from wbc_server.link.folder import StudyFolder
from wbc_server.link.register import read_register

log = logging.getLogger(__name__)


def lay_out_run(folder: StudyFolder) -> StudyConfig:
    """The run's folder with the plan as it is now; a run that has begun keeps its plan.

    Raises:
        SettingError: the plan changed since the run began, or a clinic was not enrolled before it.
    """
    study = folder.study()
    run = folder.run
    if run.study_file.exists() and run.study().hash != study.hash:
        raise SettingError(
            f"study.toml changed since this run began: it runs plan {run.study().hash[:12]}",
            remedy="restore study.toml, or move run/ away to begin anew",
        )
    if run.study_file.exists():
        return study
    missing = {*study.clinics.train, *study.clinics.held_out} - read_register(folder.register_file).active().keys()
    if missing:
        raise SettingError(
            f"not enrolled yet: {', '.join(sorted(missing))}",
            remedy="enrol them (wbc-server enrol FOLDER --clinic NAME --key FILE), or take them out of the plan",
        )
    run.path.mkdir(parents=True, exist_ok=True)
    write_study(study, run.study_file)
    return study


def check_certificates(folder: StudyFolder) -> list[str]:
    """Warnings of certificates that end soon.

    Raises:
        SettingError: one has expired.
    """
    warnings = []
    for certificate in (folder.certificate, folder.authority, folder.link_certificate):
        left = days_left(certificate)
        if left <= 0:
            raise SettingError(
                f"certificate {certificate} has expired", remedy="make a new one: wbc-server renew FOLDER"
            )
        if left <= folder.settings().warn_days:
            warnings.append(f"certificate {certificate.name} expires in {left:.0f} days; renew it: wbc-server renew")
    return warnings


@contextmanager
def only_one(folder: StudyFolder) -> Iterator[None]:
    """Hold the folder's lock.

    Raises:
        SettingError: a coordinator runs in this folder already.
    """
    taken = SettingError(
        f"a coordinator runs in {folder.path}", remedy="see wbc-server status, or end it: wbc-server stop"
    )
    with holding(folder.lock_file, taken):
        yield


def prepare(folder: StudyFolder, say: Callable[[str], None]) -> Coordinator:
    """A coordinator of this folder, ready to work."""
    port = free_port()
    home = folder.link / "flower"
    write_secret(folder.superexec_secret, secrets.token_bytes(32))
    write_connection(home, port, folder.authority)
    app = folder.link / "app" / "wbc-fl"
    write_app(app)
    deployment = Deployment(folder.link)
    environment = flower_environment(home, **deployment.variables(folder.run))
    bundle = build_bundle(folder.link / "bundle", environment)
    kept = [
        KeptProcess(_superlink(folder, port, environment)),
        KeptProcess(_superexec(folder, port, environment)),
        KeptProcess(_gateway(folder, port, environment, bundle)),
    ]
    return Coordinator(folder, kept, FlowerControl(environment, port, folder.authority), deployment, say, app)


def _superlink(folder: StudyFolder, port: int, environment: dict[str, str]) -> Command:
    arguments = [
        *(sys.executable, "-m", "wbc_server.link.superlink"),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--ssl-certfile", str(folder.link_certificate), "--ssl-keyfile", str(folder.link_key)),
        *("--ssl-ca-certfile", str(folder.authority)),
        "--enable-supernode-auth",
        *("--isolation", "process", "--superexec-auth-secret-file", str(folder.superexec_secret)),
        *("--database", str(folder.link / "link.db")),
        "--disable-runtime-dependency-installation",
    ]
    return Command(
        "superlink", arguments, environment, folder.link / "superlink.log", healthy=lambda: listens("127.0.0.1", port)
    )


def _superexec(folder: StudyFolder, port: int, environment: dict[str, str]) -> Command:
    arguments = [
        flower_command("flower-superexec"),
        *("--runtime-api-address", f"127.0.0.1:{port}", "--root-certificates", str(folder.authority)),
        *("--superexec-auth-secret-file", str(folder.superexec_secret)),
    ]
    seldom = environment | {"FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "1"}  # it starts one app, and each look costs 15 ms
    return Command("superexec", arguments, seldom, folder.link / "superexec.log")


def _gateway(folder: StudyFolder, port: int, environment: dict[str, str], bundle: Bundle) -> Command:
    module = [sys.executable, "-m", "wbc_server.link.gateway", str(folder.path)]
    arguments = [*module, "--link-port", str(port), "--bundle", bundle.sha256]
    return Command(
        "gateway", arguments, environment, folder.link / "gateway.log", healthy=lambda: gateway_answers(folder)
    )


def gateway_answers(folder: StudyFolder) -> bool:
    """Whether the gateway answers over TLS, whatever it says of the SuperLink."""
    settings = folder.settings()
    context = ssl.create_default_context(cafile=str(folder.authority))
    context.check_hostname = False  # asked on loopback, whatever names the certificate has
    try:
        httpx.get(
            f"https://{reached_at(settings.bind)}:{settings.port}{HEALTH_PATH}",
            verify=context,
            trust_env=False,
            timeout=5,
        )
    except (httpx.TransportError, httpx.InvalidURL):  # no gateway can listen on what is no address
        return False
    return True


def reached_at(bind: str) -> str:
    """Where this machine reaches what listens on an address or host name, as a URL has it."""
    try:
        address = ipaddress.ip_address(bind)
    except ValueError:
        return bind
    if address.is_unspecified:
        return "127.0.0.1" if address.version == 4 else "[::1]"
    return str(address) if address.version == 4 else f"[{address}]"


def listens(host: str, port: int) -> bool:
    """Whether something takes connections there."""
    with suppress(OSError), socket.create_connection((host, port), timeout=5):
        return True
    return False


def free_port() -> int:
    """A port of loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
