"""What a round costs beyond training, between real processes over TLS on loopback.

Starts a whole federation (coordinator, gateway, SuperLink, a node a clinic) of small in-silico clinics and reads the
journal: a round's seconds less those of the slowest clinic's training. What is left is sending, starting, measuring the
received model and, where the alignment term counts, class sums. Beside it the coordinator's memory, by process: the
kernel's own note of its peak, and the median over the second half of its life, in which it mostly waits. With
--nice, clinics give way to the coordinator, with which hospitals would not share a machine. With --slow, the processes
of one clinic are stopped and let go in turns, so that they get a share of the machine's time.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

from processes import resident_mb

sys.path.insert(0, str(Path(__file__).parents[1]))
from family import command_line, family
from wbc_simulations.experiment import PhantomClinic
from wbc_simulations.federation import Federation, end, launch, launch_clinic, lay_out, plan_federation

LIMIT_SECONDS = 1800
COORDINATOR = ("flwr-serverapp", "link.superlink", "link.gateway")
DOMAINS = ("dm96_mgg", "rapid_yellow", "pale_wright", "oil_mgg_aml")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--clinics", type=int, default=4, help="training clinics; one more is held out")
    options.add_argument("--rounds", type=int, default=8)
    options.add_argument("--cells", type=int, default=100, help="cells a clinic")
    options.add_argument(
        "--backbone",
        default="cnn-small",
        help="MB in fp32: p4cnn-small 0.6, cnn-small 1.3, resnet18 45, convnext-small 198",
    )
    options.add_argument("--precision", default="fp32", help="of the updates: fp32, fp16 or int8")
    options.add_argument("--slow", type=float, default=1.0, help="one clinic as many times slower")
    options.add_argument("--nice", type=int, default=0, help="of all clinics, so that they give way to the coordinator")
    options.add_argument("--round-minutes", type=float, default=5.0, help="after which a round goes on without it")
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
        "model": {"backbone": given.backbone, "weights": "none"},
        "transport": {"update_precision": given.precision},
        "images": {"size_px": 32},
        "training": {"local_epochs": 1},
        "loss": {
            "alignment_weight": 0.1 if given.alignment else 0.0,
            "alignment_min_cells": 2,
            "alignment_warmup": 0.0,
        },
        "evaluation": {"bootstrap_replicates": 20},
        "participation": {"join_minutes": 9.0, "round_minutes": given.round_minutes, "quorum": 0.5},
    }
    with tempfile.TemporaryDirectory() as place:
        federation = lay_out(Path(place) / "federation", clinics, plan_federation(clinics, settings))
        seconds, memory = run(federation, given.slow, given.nice)
        records = [json.loads(line) for line in (federation.coordinator / "run/rounds.jsonl").read_text().splitlines()]
        tell(records, seconds)
    told = (f"{name} {peak:.0f} (at rest {rest:.0f})" for name, (peak, rest) in memory.items())
    print("coordinator's peak memory, MB: " + ", ".join(told))


def run(federation: Federation, slow: float, nice: int) -> tuple[float, dict[str, tuple[float, float]]]:
    """Run a federation to its report; seconds from the first start to the coordinator's end, and its MB by process."""
    began = time.monotonic()
    log = federation.coordinator / "coordinator.log"
    coordinator = launch("wbc-server", "start", str(federation.coordinator), log=log, OMP_NUM_THREADS="1")
    nodes = {clinic: launch_clinic(federation, clinic) for clinic in federation.clinics}
    for node in nodes.values():
        os.setpriority(os.PRIO_PROCESS, node.pid, nice)  # its processes inherit it
    over, seen = threading.Event(), {name: [(0.0, 0.0)] for name in COORDINATOR}
    watchers = [threading.Thread(target=watch_memory, args=(coordinator.pid, seen, over))]
    if nice:
        watchers.append(threading.Thread(target=give_way, args=(coordinator.pid, nice, over)))
    if slow > 1:
        watchers.append(threading.Thread(target=hold_back, args=(nodes["clinic-00"], slow, over)))
    for watcher in watchers:
        watcher.start()
    try:
        code = coordinator.wait(LIMIT_SECONDS)
    finally:
        over.set()
        for watcher in watchers:
            watcher.join()
    seconds = time.monotonic() - began
    for node in nodes.values():
        end(node)
    if code:
        raise SystemExit(log.read_text())
    peaks = {name: max(peak for peak, _ in found) for name, found in seen.items()}
    rests = {name: statistics.median(now for _, now in found[len(found) // 2 :]) for name, found in seen.items()}
    return seconds, {name: (peaks[name], rests[name]) for name in COORDINATOR}


def watch_memory(root: int, seen: dict[str, list[tuple[float, float]]], over: threading.Event) -> None:
    """Note peak and present memory of each kind of process below one."""
    while not over.wait(0.3):
        for process in family(root):
            line = command_line(process)
            for name in (name for name in seen if name in line):
                seen[name].append(resident_mb(process))


def give_way(coordinator: int, nice: int, over: threading.Event) -> None:
    """Lower the sessions of all processes of ours but the coordinator's: where Linux shares its time among sessions, a
    process' priority counts within its own alone, and a clinic has several."""
    while not over.wait(1):
        for process in set(family(os.getpid())) - {os.getpid(), *family(coordinator)}:
            with suppress(OSError):  # it has ended, or this machine does not group by session
                Path(f"/proc/{process}/autogroup").write_text(str(nice))


def hold_back(node: "subprocess.Popen[bytes]", times: float, over: threading.Event) -> None:
    """Stop all processes of a clinic for so much of each half second that they run one part in `times`."""
    period = 0.5
    while not over.is_set():
        for wanted, seconds in ((signal.SIGSTOP, period * (1 - 1 / times)), (signal.SIGCONT, period / times)):
            for process in family(node.pid):
                with suppress(ProcessLookupError):
                    os.kill(process, wanted)
            time.sleep(seconds)


def tell(records: list[dict[str, object]], seconds: float) -> None:
    """Print a line a round, and the medians without the first round."""
    overheads = []
    for record in records:
        training = max(clinic["seconds"] for clinic in record["train"].values())  # type: ignore[attr-defined]
        overheads.append(float(record["seconds"]) - training)  # type: ignore[arg-type]
        sent = sum(sum(kinds.values()) for kinds in record["egress"].values())  # type: ignore[attr-defined]
        absent = f", without {', '.join(map(str, record['missing']))}" if record["missing"] else ""  # type: ignore[arg-type]
        print(
            f"round {record['round']}: {record['seconds']:6.2f} s, slowest training {training:5.2f} s, "
            f"beyond it {overheads[-1]:5.2f} s, {sent / 1e6:.2f} MB from clinics{absent}"
        )
    print(f"median beyond training, without the first round: {statistics.median(overheads[1:]):.2f} s")
    load = f"load of this machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs"
    print(f"from start to end: {seconds:.0f} s; {load}")


if __name__ == "__main__":
    main()
