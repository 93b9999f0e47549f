"""What an engine costs: the reference job (`reference_job`) as a plain PyTorch loop, with ours, and under Ray.

Every way is a command of its own, run in turns, so that a machine that slows down slows all of them. "rounds" are the
seconds of the rounds alone, "command" those of the whole command from start-up to report; all are divided by those of
the faster of the two floors. CPU seconds say more than the clock on a machine that does other work (Ray's processes are
not in them). Ours measure all validation and held-out cells every round and keep a record; the floors
do not. The last losses must agree within 5 %: by seed they differ more.
"""

import argparse
import importlib.util
import json
import os
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from processes import CommandFailed, watch
from reference_job import reference_experiment

from wbc_server.run_folder import RunFolder
from wbc_simulations.clinics import write_clinics
from wbc_simulations.experiment import plan_study, write_experiment
from wbc_simulations.running import start_run

FLOORS = {"plain PyTorch loop, 2 threads": "contiguous", "the same, channels last": "channels-last"}
OURS = {
    "in process, fp32": ("fp32", "in-process"),
    "in process, bf16": ("bf16", "in-process"),
    "Flower on Ray, fp32": ("fp32", "ray"),
}
# Other frameworks, taken where they are installed: package, script and threads a process.
OTHERS = {
    "pfl-research, 2 threads": ("pfl", "with_pfl.py", 2),
    "NVIDIA FLARE, a process a clinic": ("nvflare", "with_nvflare.py", 1),
}
_TOLERANCE = 0.05
_LIMIT_SECONDS = 300.0  # for one command


@dataclass(frozen=True)
class Measured:
    """One run of one way."""

    rounds: float
    command: float
    cpu: float
    loss: float
    largest_mb: float
    together_mb: float


def main() -> None:
    """Print the table."""
    arguments = parse_arguments()
    ways = [way for way in [*FLOORS, *OURS, *installed()] if way not in arguments.without]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clinics = prepare(folder, arguments.rounds)
        found: dict[str, list[Measured]] = {}
        for number in range(arguments.repeats):
            for way in ways:
                try:
                    measured = run_ours(way, folder, number) if way in OURS else run_script(way, clinics)
                except CommandFailed as error:
                    if way not in OTHERS:
                        raise
                    print(f"{way} does not count in turn {number + 1}: {error}", file=sys.stderr, flush=True)
                    continue
                found.setdefault(way, []).append(measured)
                print(f"{way}: {measured.command:.1f} s", file=sys.stderr, flush=True)
    print_table(found, arguments.repeats)


def prepare(folder: Path, rounds: int) -> Path:
    """Experiment files, and the clinics with their cells rendered; returns the folder of clinic files."""
    for precision in ("fp32", "bf16"):
        write_experiment(reference_experiment(precision, rounds=rounds), folder / f"{precision}.toml")
    experiment = reference_experiment("fp32", rounds=rounds)
    study = plan_study(experiment)
    start_run(experiment, study, RunFolder(folder / "floor"))
    return write_clinics(experiment, study, folder / "floor")


def installed() -> list[str]:
    """The other frameworks that can be imported here; names the rest."""
    found = [way for way, (package, _, _) in OTHERS.items() if importlib.util.find_spec(package)]
    for way in OTHERS.keys() - set(found):
        print(f"{way}: left out, the package {OTHERS[way][0]} is not installed", file=sys.stderr)
    return found


def run_script(way: str, clinics: Path) -> Measured:
    """A plain loop, or another framework."""
    script, threads = ("reference_job.py", 2) if way in FLOORS else OTHERS[way][1:]
    options = [FLOORS[way]] if way in FLOORS else []
    here = Path(__file__).parent
    path = os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(here)])  # FLARE's processes import our scripts
    command = [sys.executable, str(here / script), str(clinics), *options]
    done = watch(command, {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": path}, _LIMIT_SECONDS)
    values = json.loads(done.output.splitlines()[-1])
    return Measured(
        sum(values["seconds"]), done.seconds, done.cpu_seconds, values["loss"], done.largest_mb, done.together_mb
    )


def run_ours(way: str, folder: Path, number: int) -> Measured:
    """`wbc-simulate run`, as a user would."""
    precision, engine = OURS[way]
    output = folder / f"{precision}-{engine}-{number}"
    code = "from wbc_simulations.cli import main; main()"
    options = ["--study", str(folder / f"{precision}.toml"), "--engine", engine, "--output", str(output)]
    # Under Ray each clinic has one core of its own.
    threads = "1" if engine == "ray" else "2"
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    done = watch([sys.executable, "-c", code, "run", *options], environment, _LIMIT_SECONDS)
    records = [json.loads(line) for line in (output / "rounds.jsonl").read_text(encoding="utf-8").splitlines()]
    loss = statistics.mean(record["loss"] for record in records[-1]["train"].values())
    rounds = sum(record["seconds"] for record in records)
    return Measured(rounds, done.seconds, done.cpu_seconds, loss, done.largest_mb, done.together_mb)


def print_table(found: dict[str, list[Measured]], repeats: int) -> None:
    """Medians and ratios, as the README shows them."""

    def median(way: str, figure: str) -> float:
        return statistics.median(getattr(measured, figure) for measured in found[way])

    def time_and_ratio(way: str, figure: str) -> str:
        return f"{median(way, figure):.1f} s | {median(way, figure) / base[figure]:.2f} ×"

    base = {
        figure: min(median(floor, figure) for floor in FLOORS if floor in found)
        for figure in ("rounds", "command", "cpu", "loss")
    }
    columns = "rounds | | command | | its CPU seconds | | last loss | memory, largest process / all"
    for way in found:
        if len(found[way]) < repeats:
            print(f"{way}: median of {len(found[way])}, as it failed in the others", file=sys.stderr)
    print(f"| reference job, median of {repeats} | {columns} |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for way in found:
        times = f"{time_and_ratio(way, 'rounds')} | {time_and_ratio(way, 'command')} | {time_and_ratio(way, 'cpu')}"
        memory = f"{median(way, 'largest_mb'):,.0f} / {median(way, 'together_mb'):,.0f} MB"
        print(f"| {way} | {times} | {median(way, 'loss'):.4f} | {memory} |")
    apart = [way for way in found if abs(median(way, "loss") / base["loss"] - 1) > _TOLERANCE]
    if apart:
        sys.exit(f"the last losses of {', '.join(apart)} differ from the floor's by more than {_TOLERANCE:.0%}")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument(
        "--without", action="append", default=[], choices=[*FLOORS, *OURS, *OTHERS], help="leave a way out"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
