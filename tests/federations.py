"""Small federations of real processes on loopback, for the tests: TLS, keys, gateway, nodes, in-silico cells."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from family import command_line, family
from studies import CLINICS
from studies import SETTINGS as TINY
from wbc_common.study import StudyConfig
from wbc_simulations.experiment import PhantomClinic
from wbc_simulations.federation import Federation, end, launch, launch_clinic, lay_out, plan_federation

SETTINGS: dict[str, object] = {
    **TINY,
    "rounds": 3,
    "participation": {"join_minutes": 4.0, "round_minutes": 4.0},
}


def tiny_plan(clinics: tuple[PhantomClinic, ...] = CLINICS, **changes: object) -> StudyConfig:
    """Three rounds; two training clinics and one held out unless said."""
    return plan_federation(clinics, {**SETTINGS, **changes})


@dataclass
class Running:
    """A federation whose processes run; each is ended with the test."""

    federation: Federation
    processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def start_coordinator(self, command: str = "start") -> None:
        place = self.federation.coordinator
        self.processes["coordinator"] = launch(
            "wbc-server", command, str(place), log=place / "coordinator.log", OMP_NUM_THREADS="1"
        )

    def start_clinic(self, clinic: str) -> None:
        self.processes[clinic] = launch_clinic(self.federation, clinic)

    def rounds_done(self) -> int:
        journal = self.federation.coordinator / "run" / "rounds.jsonl"
        return len(journal.read_text().splitlines()) if journal.exists() else 0

    def tell(self) -> str:
        """The end of every log, for a test that failed."""
        logs = [*self.federation.coordinator.rglob("*.log"), *self.federation.coordinator.parent.rglob("node*/*.log")]
        return "\n".join(f"== {log}\n" + "\n".join(log.read_text().splitlines()[-15:]) for log in sorted(set(logs)))


@contextmanager
def running(folder: Path, study: StudyConfig, clinics: tuple[PhantomClinic, ...] = CLINICS) -> Iterator[Running]:
    """A laid-out federation; nothing runs yet."""
    found = Running(lay_out(folder, clinics, study))
    try:
        yield found
    finally:
        for process in found.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in found.processes.values():
            end(process)


def wait_for(condition: Callable[[], bool], seconds: float, found: Running | None = None) -> None:
    """Wait until a condition holds, or fail with the logs."""
    end_at = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end_at:
            raise AssertionError(f"did not happen in {seconds:g} s\n" + (found.tell() if found else ""))
        time.sleep(0.05)


def kill(process: "subprocess.Popen[bytes]", what: str) -> bool:
    """SIGKILL the process below one whose command line holds a word; whether there was one."""
    victims = [number for number in family(process.pid)[1:] if what in command_line(number)]
    for number in victims:
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    return bool(victims)


def same_bits(one: Mapping[str, NDArray[Any]], other: Mapping[str, NDArray[Any]]) -> bool:
    """Whether two models have the same arrays, to the bit."""
    return one.keys() == other.keys() and all(one[key].tobytes() == other[key].tobytes() for key in one)


def same_study_in_process(federation: Federation, folder: Path) -> Path:
    """Run the plan of a federation that is over in this process, on the same cells, with the clinics' own draws.

    Returns the final model's file.
    """
    import tomllib

    import tomli_w
    import torch

    from wbc_client.site import read_site
    from wbc_client.state.draw_seed import bootstrap_seed, keep_bootstrap_seed
    from wbc_server.run_folder import RunFolder
    from wbc_simulations.engine.engines import run_study

    clinics = folder / "clinics"
    clinics.mkdir(parents=True)
    (folder / "study.toml").write_bytes((federation.coordinator / "study.toml").read_bytes())
    for name, place in federation.clinics.items():
        values = tomllib.loads((place / "clinic.toml").read_text())
        values = {key: values[key] for key in ("clinic", "data")}
        text = tomli_w.dumps({**values, "study": "../study.toml", "state_dir": f"../sites/{name}"})
        (clinics / f"{name}.toml").write_text(text)
        keep_bootstrap_seed(folder / "sites" / name, bootstrap_seed(read_site(place / "clinic.toml").state_dir))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run_study(RunFolder(folder), clinics, "in-process")
    finally:
        torch.set_num_threads(threads)
    return RunFolder(folder).model
