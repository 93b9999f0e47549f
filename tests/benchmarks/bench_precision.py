"""What bf16 costs in accuracy: the reference job in fp32 and in bf16 on the same seeds, and the paired differences.

Both runs of a seed have the same first model, batches and augmentations; they differ by rounding alone, which training
then makes larger, as it does with any other change of rounding.
"""

import argparse
import json
import math
import os
import statistics
import tempfile
from pathlib import Path

from reference_job import reference_experiment
from scipy.stats import t as student

from wbc_server.run_folder import RunFolder
from wbc_simulations.experiment import plan_study
from wbc_simulations.running import finish_run, start_run


def main() -> None:
    """Print a row a seed, then the mean paired difference with its 95 % interval."""
    arguments = parse_arguments()
    differences: dict[str, list[float]] = {}
    print(f"{'seed':>4}{'precision':>11}{'last loss':>11}{'macro-F1 held out':>19}{'macro-F1 own test':>19}")
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("WBC_CACHE", folder)
        for seed in range(arguments.seeds):
            fp32, bf16 = (figures(p, seed, Path(folder) / f"{p}-{seed}", arguments.rounds) for p in ("fp32", "bf16"))
            for name, found in (("fp32", fp32), ("bf16", bf16)):
                print(f"{seed:>4}{name:>11}{found['loss']:>11.4f}{found['held_out']:>19.4f}{found['own']:>19.4f}")
            for name in fp32:
                differences.setdefault(name, []).append(bf16[name] - fp32[name])
            print(end="", flush=True)
    for name, values in differences.items():
        mean = statistics.mean(values)
        half = student.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
        print(f"bf16 - fp32, {name}: {mean:+.4f} [{mean - half:+.4f}, {mean + half:+.4f}]")


def figures(precision: str, seed: int, folder: Path, rounds: int) -> dict[str, float]:
    """Mean training loss of the last round, and mean macro-F1 of held-out and of training clinics' test cells."""
    experiment = reference_experiment(precision, rounds=rounds)
    study = plan_study(experiment, changes={"seed": seed})
    run = RunFolder(folder)
    start_run(experiment, study, run)
    finish_run(experiment, study, run, "in-process")
    last = json.loads(run.journal.read_text(encoding="utf-8").splitlines()[-1])
    assert {record["precision"] for record in last["train"].values()} == {precision}
    metrics = run.read_metrics()
    return {
        "loss": statistics.mean(record["loss"] for record in last["train"].values()),
        "held_out": metrics["mean_held_out"]["macro_f1"]["value"],
        "own": metrics["mean_in_domain"]["macro_f1"]["value"],
    }


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=10)
    return parser.parse_args()


if __name__ == "__main__":
    main()
