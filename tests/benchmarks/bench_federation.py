"""What a round costs beyond training, between real processes over TLS on loopback.

Starts a whole federation (coordinator, gateway, SuperLink, a node a clinic) of small in-silico clinics and reads the
journal: a round's seconds less those of the slowest clinic's training. What is left is sending, starting, measuring the
received model and, where the alignment term counts, class sums.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

from wbc_simulations.experiment import PhantomClinic
from wbc_simulations.federation import Federation, end, launch, launch_clinic, lay_out, plan_federation

DOMAINS = ("dm96_mgg", "rapid_yellow", "pale_wright", "oil_mgg_aml")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--clinics", type=int, default=4, help="training clinics; one more is held out")
    options.add_argument("--rounds", type=int, default=8)
    options.add_argument("--cells", type=int, default=100, help="cells a clinic")
    options.add_argument("--alignment", action="store_true", help="with class sums beside each update")
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
        seconds = run(federation)
        records = [json.loads(line) for line in (federation.coordinator / "run/rounds.jsonl").read_text().splitlines()]
        tell(records, seconds)


def run(federation: Federation) -> float:
    """Run a federation to its report; seconds from the first start to the coordinator's end."""
    began = time.monotonic()
    log = federation.coordinator / "coordinator.log"
    coordinator = launch("wbc-server", "start", str(federation.coordinator), log=log, OMP_NUM_THREADS="1")
    nodes = [launch_clinic(federation, clinic) for clinic in federation.clinics]
    code = coordinator.wait(580)
    seconds = time.monotonic() - began
    for node in nodes:
        end(node)
    if code:
        raise SystemExit(log.read_text())
    return seconds


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
