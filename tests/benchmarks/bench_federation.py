"""What a round costs beyond training, between real processes over TLS on loopback; and the coordinator's memory.

Starts a whole federation (coordinator, gateway, SuperLink, a node a clinic) of small in-silico clinics and reads the
journal: a round's seconds less those of the slowest clinic's training. What is left is sending, starting, evaluation
and, where the alignment term counts, class sums. Memory is each process's largest resident set; of the ServerApp also
what it holds beyond that of the moment when its first round began, in models of the plan's size.
"""

import argparse
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from processes import family

from wbc_simulations.experiment import PhantomClinic
from wbc_simulations.federation import Federation, end, launch, launch_clinic, lay_out, plan_federation

DOMAINS = ("dm96_mgg", "rapid_yellow", "pale_wright", "oil_mgg_aml")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--clinics", type=int, default=4, help="training clinics; one more is held out")
    options.add_argument("--rounds", type=int, default=8)
    options.add_argument("--cells", type=int, default=100, help="cells a clinic")
    options.add_argument("--backbone", default="cnn-small")
    options.add_argument("--alignment", action="store_true", help="with class sums: a third exchange a round")
    given = options.parse_args()
    clinics = [
        PhantomClinic(clinic=f"clinic-{number:02d}", domain=DOMAINS[number % 4], cells=given.cells, patients=10)
        for number in range(given.clinics)
    ]
    clinics.append(
        PhantomClinic(clinic="held-out", role="held-out", domain="phone_cast", cells=given.cells, patients=10)
    )
    settings: dict[str, object] = {
        "name": "bench",
        "rounds": given.rounds,
        "images": {"size_px": 32},
        "model": {"backbone": given.backbone, "weights": "none"},
        "training": {"local_epochs": 1},
        "loss": {
            "alignment_weight": 0.1 if given.alignment else 0.0,
            "alignment_min_cells": 2,
            "alignment_warmup": 0.0,
        },
        "evaluation": {"bootstrap_replicates": 20},
        "participation": {"join_minutes": 5.0, "round_minutes": 5.0},
    }
    with tempfile.TemporaryDirectory() as place:
        federation = lay_out(Path(place) / "federation", clinics, plan_federation(clinics, settings))
        memory: dict[str, float] = {}
        seconds = run(federation, memory)
        records = [json.loads(line) for line in (federation.coordinator / "run/rounds.jsonl").read_text().splitlines()]
        tell(records, seconds)
        model_mb = (federation.coordinator / "run/model.safetensors").stat().st_size / 1e6
        tell_memory(memory, model_mb)


def run(federation: Federation, memory: dict[str, float]) -> float:
    """Run a federation to its report; seconds from the first start to the coordinator's end. Fills in `memory`."""
    began = time.monotonic()
    log = federation.coordinator / "coordinator.log"
    coordinator = launch("wbc-server", "start", str(federation.coordinator), log=log, OMP_NUM_THREADS="1")
    nodes = [launch_clinic(federation, clinic) for clinic in federation.clinics]
    over = threading.Event()
    watcher = threading.Thread(target=watch_memory, args=(federation, coordinator.pid, memory, over))
    watcher.start()
    code = coordinator.wait(1500)
    seconds = time.monotonic() - began
    over.set()
    watcher.join()
    for node in nodes:
        end(node)
    if code:
        raise SystemExit(log.read_text())
    return seconds


def watch_memory(federation: Federation, coordinator: int, memory: dict[str, float], over: threading.Event) -> None:
    """Largest resident set in MB by process of the coordinator, of all together, and the ServerApp's at its start."""
    events = federation.coordinator / "run" / "events.log"
    while not over.wait(0.1):
        began = events.exists() and "study starts" in events.read_text()
        sizes = {pid: (name, peak) for pid in family(coordinator) if (name := _name(pid)) and (peak := _peak_mb(pid))}
        for name, peak in sizes.values():
            if name == "ServerApp" and not began:
                memory["ServerApp before its first round"] = peak
            memory[name] = max(memory.get(name, 0.0), peak)


def _name(pid: int) -> str:
    names = {"flwr-serverapp": "ServerApp", "flower-superlink": "SuperLink", "link.gateway": "gateway"}
    with suppress(OSError):
        line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        return next((name for word, name in names.items() if word in line), "")
    return ""


def _peak_mb(pid: int) -> float:
    """The largest resident set that a process has had, as the kernel counts it."""
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), 0.0)
    return 0.0


def tell_memory(memory: Mapping[str, float], model_mb: float) -> None:
    """Print peaks, and what the ServerApp held beyond its start in models."""
    print("peak MB: " + ", ".join(f"{name} {peak:.0f}" for name, peak in sorted(memory.items())))
    beyond = memory.get("ServerApp", 0.0) - memory.get("ServerApp before its first round", 0.0)
    print(f"ServerApp beyond its start: {beyond:.0f} MB, {beyond / model_mb:.1f} models of {model_mb:.1f} MB")


def tell(records: list[dict[str, object]], seconds: float) -> None:
    """Print a line a round, and the medians without the first round."""
    overheads = []
    for record in records:
        training = max(clinic["seconds"] for clinic in record["train"].values())  # type: ignore[attr-defined]
        overheads.append(float(record["seconds"]) - training)  # type: ignore[arg-type]
        sent = sum(sum(kinds.values()) for kinds in record["egress"].values())  # type: ignore[attr-defined]
        print(
            f"round {record['round']}: {record['seconds']:6.2f} s, slowest training {training:5.2f} s, "
            f"beyond it {overheads[-1]:5.2f} s, {sent / 1e6:.2f} MB from clinics"
        )
    print(f"median beyond training, without the first round: {statistics.median(overheads[1:]):.2f} s")
    load = f"load of this machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs"
    print(f"from start to end: {seconds:.0f} s; {load}")


if __name__ == "__main__":
    main()
