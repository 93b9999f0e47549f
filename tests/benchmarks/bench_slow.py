"""One clinic nine times slower than the other: round times, and what a deadline shorter than its work does.

From the second round on the trainer of clinic north gets one ninth of the time (SIGSTOP and SIGCONT in turns). Without
--deadline nobody is left out, and the model is compared bit by bit with that of the same plan in one process. With it
the round must go on with the other clinic, and the report must name the slow one.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

from safetensors.numpy import load_file

sys.path.insert(0, str(Path(__file__).parents[1]))
from federations import Running, descendants, running, same_bits, same_study_in_process, tiny_plan, wait_for

_TURN_SECONDS = 0.9
SLOW = "north"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--times", type=float, default=9.0, help="how much slower")
    options.add_argument("--deadline", type=float, default=0.0, help="seconds an exchange waits; 0: long enough")
    options.add_argument("--epochs", type=int, default=20)
    options.add_argument("--rounds", type=int, default=3)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as place:
        minutes = (given.deadline or 600.0) / 60
        participation = {"join_minutes": 4.0, "round_minutes": minutes, "quorum": 0.5}
        training = {"local_epochs": given.epochs, "batch_size": 16}
        study = tiny_plan(rounds=given.rounds, participation=participation, training=training)
        with running(Path(place) / "federation", study) as found:
            run_with_slow_clinic(found, given.times)
            run = found.federation.coordinator / "run"
            records = [json.loads(text) for text in (run / "rounds.jsonl").read_text().splitlines()]
            tell(records)
            if given.deadline:
                raise SystemExit(not left_out(run, records))
        alone = load_file(same_study_in_process(found.federation, Path(place) / "alone"))
        same = same_bits(load_file(run / "model.safetensors"), alone)
    print(f"final model the same to the bit: {same}; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs")
    raise SystemExit(not same)


def run_with_slow_clinic(found: Running, times: float) -> None:
    """Run the study to its report; after its first round the slow clinic is slow."""
    found.start_coordinator()
    for clinic in found.federation.clinics:
        found.start_clinic(clinic)
    wait_for(lambda: found.rounds_done() >= 1, 300, found)
    over = threading.Event()
    brake = threading.Thread(target=slow_down, args=(found, times, over))
    brake.start()
    try:
        wait_for(found.federation.report.exists, 1500, found)
    finally:
        over.set()
        brake.join()


def slow_down(found: Running, times: float, over: threading.Event) -> None:
    """Let the slow clinic's trainer run for one part in `times` of the time."""
    while not over.is_set():
        trainers = [pid for pid, line in descendants(found.processes[SLOW]).items() if "node.trainer" in line]
        _signal(trainers, signal.SIGSTOP)
        time.sleep(_TURN_SECONDS * (1 - 1 / times))
        _signal(trainers, signal.SIGCONT)
        time.sleep(_TURN_SECONDS / times)


def _signal(processes: list[int], number: int) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, number)


def tell(records: list[dict[str, object]]) -> None:
    """Print a line a round."""
    for record in records:
        seconds = {clinic: f"{told['seconds']:.1f} s" for clinic, told in record["train"].items()}  # type: ignore[attr-defined]
        missing = [entry["clinic"] for entry in record["missing"]]  # type: ignore[attr-defined]
        print(f"round {record['round']}: {record['seconds']:6.1f} s, training {seconds}, missing {missing}")


def left_out(run: Path, records: list[dict[str, object]]) -> bool:
    """Whether the slow clinic, and no other, was missing, and the report names it."""
    missing = {entry["clinic"] for record in records for entry in record["missing"]}  # type: ignore[attr-defined]
    page = (run / "report.html").read_text()
    first_page = page[: page.find("<h2")] if "<h2" in page else page
    print(f"missing in some round: {sorted(missing)}; named at the top of the report: {SLOW in first_page}")
    return missing == {SLOW} and SLOW in page


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main()
