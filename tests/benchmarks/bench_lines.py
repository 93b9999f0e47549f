"""A federation over slow lines and over lines that break: round times, and is the final model the same to the bit?

Each clinic reaches the gateway through a line of its own (`line.py`). With --cut, all lines are cut for so many seconds
while the second round is in flight (--kind: three ways in which lines break). At the end the model is compared
with that of the same plan run in one process.
"""

import argparse
import json
import os
import sys
import tempfile
import time
import tomllib
from pathlib import Path

import tomli_w
from line import CUTS, Line
from safetensors.numpy import load_file

sys.path.insert(0, str(Path(__file__).parents[1]))
from federations import Running, running, same_bits, same_study_in_process, tiny_plan, wait_for


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--megabits", type=float, default=0.0, help="a second and clinic, each way; 0: no limit")
    options.add_argument("--cut", type=float, default=0.0, help="seconds")
    options.add_argument("--kind", choices=CUTS, default="refuse", help="what becomes of connections in a cut")
    options.add_argument("--rounds", type=int, default=4)
    options.add_argument("--precision", default="fp32", help="of the updates: fp32, fp16 or int8")
    options.add_argument("--backbone", default="cnn-small")
    given = options.parse_args()
    minutes = 5.0 + given.cut / 60
    with tempfile.TemporaryDirectory() as place:
        participation = {"join_minutes": 4.0, "round_minutes": minutes}
        model = {"backbone": given.backbone, "weights": "none"}
        study = tiny_plan(
            rounds=given.rounds,
            participation=participation,
            model=model,
            transport={"update_precision": given.precision},
        )
        with running(Path(place) / "federation", study) as found:
            lines = lay_lines(found, given.megabits)
            began = time.monotonic()
            found.start_coordinator()
            for clinic in found.federation.clinics:
                found.start_clinic(clinic)
            if given.cut:
                cut(found, lines, given)
            wait_for(found.federation.report.exists, 900, found)
            seconds = time.monotonic() - began
        run = found.federation.coordinator / "run"
        tell(run, lines)
        alone = load_file(same_study_in_process(found.federation, Path(place) / "alone"))
        same = same_bits(load_file(run / "model.safetensors"), alone)
    load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs"
    print(f"{seconds:.0f} s from start to report; final model the same to the bit: {same}; {load}")
    raise SystemExit(not same)


def lay_lines(found: Running, megabits: float) -> dict[str, Line]:
    """A line to the gateway for each clinic, written into its clinic file."""
    lines = {}
    for clinic, place in found.federation.clinics.items():
        path = place / "clinic.toml"
        values = tomllib.loads(path.read_text())
        host, _, port = values["coordinator"]["address"].rpartition(":")
        lines[clinic] = Line(int(port), megabits).open()
        values["coordinator"]["address"] = f"{host}:{lines[clinic].port}"
        path.write_bytes(tomli_w.dumps(values).encode())
    return lines


def cut(found: Running, lines: dict[str, Line], given: argparse.Namespace) -> None:
    """Cut all lines while the second round is in flight."""
    wait_for(lambda: found.rounds_done() >= 1, 600, found)
    time.sleep(1.0)
    for line in lines.values():
        line.cut(given.kind)
    before, began = found.rounds_done(), time.monotonic()
    time.sleep(given.cut)
    for line in lines.values():
        line.mend()
    wait_for(lambda: found.rounds_done() > before, 200, found)
    after = time.monotonic() - began - given.cut
    print(
        f"lines cut ({given.kind}) for {given.cut:.0f} s in round {before + 1}, which ended {after:.0f} s after the cut"
    )


def tell(run: Path, lines: dict[str, Line]) -> None:
    """Print a line a round and what passed the lines."""
    for record in (json.loads(text) for text in (run / "rounds.jsonl").read_text().splitlines()):
        missing = [entry["clinic"] for entry in record["missing"]]
        sent = sum(sum(kinds.values()) for kinds in record["egress"].values())
        print(
            f"round {record['round']}: {record['seconds']:7.1f} s, {sent / 1e6:.2f} MB from clinics, missing {missing}"
        )
    for clinic, line in lines.items():
        print(f"line of {clinic}: {line.passed[0] / 1e6:.1f} MB to the coordinator, {line.passed[1] / 1e6:.1f} MB back")


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main()
