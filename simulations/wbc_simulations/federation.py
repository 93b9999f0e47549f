"""`wbc-server demo`: a whole federation on this machine, with the commands that hospitals use, on in-silico cells.

Nothing is simulated but the cells: a coordinator with its own certificates and gateway, three training clinics and a
held-out one, each a node of its own with key, approval and processes, all over TLS on loopback.
"""

import atexit
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tomli_w

from wbc_common.errors import ConnectionFailure, SettingError, WbcError
from wbc_common.processes import flower_command
from wbc_common.study import StudyConfig, parse_study, write_study
from wbc_server.link.starting import free_port
from wbc_simulations.clinics import phantom_cells
from wbc_simulations.experiment import PhantomClinic, knowing_no_phantoms

CLINICS = (
    PhantomClinic(
        clinic="leukaemia-centre", domain="oil_mgg_aml", case_mix={"aml": 0.6, "normal": 0.4}, cells=300, patients=20
    ),
    PhantomClinic(
        clinic="general-hospital", domain="dm96_mgg", case_mix={"normal": 0.6, "infection": 0.4}, cells=300, patients=20
    ),
    PhantomClinic(
        clinic="outpatient-lab", domain="pale_wright", case_mix={"normal": 0.8, "cll": 0.2}, cells=200, patients=20
    ),
    PhantomClinic(
        clinic="mobile-lab",
        role="held-out",
        domain="phone_cast",
        case_mix={"normal": 0.6, "infection": 0.4},
        cells=200,
        patients=16,
    ),
)
_STUDY = {
    "name": "federation-demo",
    "registry": "wbc5",
    "rounds": 5,
    "images": {"size_px": 32},
    "training": {"local_epochs": 1},
    "evaluation": {"bootstrap_replicates": 100},
    "participation": {"join_minutes": 3.0, "round_minutes": 3.0},
}
_LIMIT_SECONDS = 290.0


@dataclass(frozen=True)
class Federation:
    """Folders of a federation on one machine: the coordinator's, and one a clinic."""

    coordinator: Path
    clinics: dict[str, Path]

    @property
    def report(self) -> Path:
        """The study's report."""
        return self.coordinator / "run" / "report.html"


def plan_federation(clinics: Sequence[PhantomClinic], settings: dict[str, object]) -> StudyConfig:
    """The plan of a federation of these in-silico clinics."""
    named = {
        "train": [clinic.clinic for clinic in clinics if clinic.role == "train"],
        "held_out": [clinic.clinic for clinic in clinics if clinic.role == "held-out"],
    }
    return parse_study({**knowing_no_phantoms(settings), "clinics": named}, "study")


def lay_out(folder: Path, clinics: Sequence[PhantomClinic], study: StudyConfig) -> Federation:
    """Do what coordinator and clinics do before a start: init, exchange of files, enrolment, approval.

    Raises:
        SettingError: the folder holds something.
        WbcError: a command failed.
    """
    if folder.exists() and any(folder.iterdir()):
        raise SettingError(f"{folder} is not empty", remedy="name another folder: --output")
    folder.mkdir(parents=True, exist_ok=True)
    coordinator, port = folder / "coordinator", free_port()
    plan = folder / "study.toml"
    write_study(study, plan)
    here = ["--host", "localhost", "--host", "127.0.0.1", "--bind", "127.0.0.1", "--port", str(port)]
    command("wbc-server", "init", str(coordinator), *here, "--study", str(plan))
    places = {clinic.clinic: folder / "clinics" / clinic.clinic for clinic in clinics}
    for clinic in clinics:
        _lay_out_clinic(coordinator, places[clinic.clinic], clinic, study, f"localhost:{port}")
    return Federation(coordinator, places)


def _lay_out_clinic(coordinator: Path, place: Path, clinic: PhantomClinic, study: StudyConfig, address: str) -> None:
    command("wbc-client", "init", "--clinic", clinic.clinic, "--folder", str(place), "--address", address)
    for name in ("study.toml", "ca.pem"):  # what the coordinator sends
        (place / name).write_bytes((coordinator / name).read_bytes())
    values = {
        "clinic": clinic.clinic,
        "study": "study.toml",
        "coordinator": {"address": address, "ca": "ca.pem", "key": "keys/clinic.key"},
        "data": {"kind": "packed", "path": str(phantom_cells(clinic, study, seed=0))},
    }
    (place / "clinic.toml").write_bytes(tomli_w.dumps(values).encode())
    key = str(place / "keys" / "clinic.key.pub")
    command("wbc-server", "enrol", str(coordinator), "--clinic", clinic.clinic, "--key", key)
    command("wbc-client", "approve", str(place / "clinic.toml"), "--yes")


def command(program: str, *arguments: str) -> str:
    """Run one of our commands to its end; returns what it printed.

    Raises:
        WbcError: it failed.
    """
    done = subprocess.run(
        [flower_command(program), *arguments], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        raise WbcError(f"{program} {arguments[0]} failed: {done.stderr.strip()}", remedy="see the message above")
    return done.stdout


def launch(program: str, *arguments: str, log: Path, **environment: str) -> "subprocess.Popen[bytes]":
    """Start one of our commands in a group of its own; it is ended with this process."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            [flower_command(program), *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, **environment},
        )
    atexit.register(end, process)
    return process


def end(process: "subprocess.Popen[bytes]") -> None:
    """Ask a command to end, and see to it."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def launch_clinic(federation: Federation, clinic: str) -> "subprocess.Popen[bytes]":
    """Start a clinic's node. One thread each: they share this machine."""
    place = federation.clinics[clinic]
    return launch("wbc-client", "start", str(place / "clinic.toml"), log=place / "node.log", OMP_NUM_THREADS="1")


def run(federation: Federation) -> None:
    """Start everything, show the coordinator's words, wait for the report.

    Raises:
        WbcError: the coordinator failed or took too long.
    """
    log = federation.coordinator / "coordinator.log"
    coordinator = launch("wbc-server", "start", str(federation.coordinator), log=log)
    nodes = [launch_clinic(federation, clinic) for clinic in federation.clinics]
    told = threading.Thread(target=_show, args=(log, coordinator), daemon=True)
    told.start()
    try:
        coordinator.wait(_LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        end(coordinator)
    finally:
        for node in nodes:
            node.send_signal(signal.SIGTERM)
        for node in nodes:
            end(node)
    told.join(2)
    if coordinator.returncode or not federation.report.exists():
        raise ConnectionFailure(
            f"the study did not end; coordinator left with code {coordinator.returncode}",
            remedy=f"see {log} and node.log of each clinic beside it",
        )


def _show(log: Path, process: "subprocess.Popen[bytes]") -> None:
    with log.open(encoding="utf-8") as lines:
        while True:
            line = lines.readline()
            if line:
                sys.stdout.write(line)
                sys.stdout.flush()
            elif process.poll() is not None:
                return
            else:
                time.sleep(0.2)


def main() -> None:
    """`python -m wbc_simulations.federation FOLDER`, which is what `wbc-server demo` runs."""
    from rich.console import Console

    from wbc_common.terminal import interrupt_on_signals, run_command
    from wbc_server.run_folder import RunFolder
    from wbc_simulations.results import results_table

    def demonstrate() -> None:
        began = time.monotonic()
        console = Console()
        console.print("rendering cells, making keys and certificates, enrolling four clinics, approving the plan")
        federation = lay_out(Path(sys.argv[1]).resolve(), CLINICS, plan_federation(CLINICS, _STUDY))
        run(federation)
        console.print(results_table(RunFolder(federation.coordinator / "run").read_metrics()))
        console.print(f"report: {federation.report}", highlight=False, soft_wrap=True)
        console.print(f"done in {time.monotonic() - began:.0f} s")

    interrupt_on_signals()
    run_command(demonstrate)


if __name__ == "__main__":
    main()
