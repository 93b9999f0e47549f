"""What the in-process engine costs: a round of messages without work, and a whole study against its bare training.

The bare loops call `train_locally` (and `evaluate`) on the same cells, as often as the study does and with the same
settings, and nothing else: no messages, no gate, no aggregation, no journal, no report. The three are timed in turn,
so that a machine that slows down slows all of them.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from wbc_client.clinic import Clinic, open_clinic
from wbc_client.evaluation import evaluate
from wbc_client.training import train_locally
from wbc_common.models import build_model, model_arrays
from wbc_common.seeds import derive_seed
from wbc_common.study import ModelSettings, StudyConfig
from wbc_common.wire import MESSAGE_TYPES, Arrays, Task, encode_task
from wbc_server.run_folder import RunFolder
from wbc_simulations.clinics import write_clinics
from wbc_simulations.engine import InProcessGrid
from wbc_simulations.experiment import DataSource, Experiment, PhantomClinic, plan_study
from wbc_simulations.running import finish_run, start_run


def main() -> None:
    """Print both tables."""
    arguments = parse_arguments()
    torch.set_num_threads(1)
    print("a round in which every clinic answers at once")
    print(f"{'clinics':>8}{'ms/round':>12}{'ms/clinic':>12}")
    for clinics in (4, 16, 64):
        seconds = statistics.median(empty_rounds(clinics, arguments.rounds))
        print(f"{clinics:>8}{1e3 * seconds:>12.2f}{1e3 * seconds / clinics:>12.3f}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("WBC_CACHE", folder)
        compare_study(Path(folder), arguments.repeats)


def empty_rounds(num_clinics: int, rounds: int) -> list[float]:
    """Seconds of each round: the small network goes to every clinic, an empty reply comes back."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return Message(RecordDict(), reply_to=message)

    grid = InProcessGrid(app, {node: {} for node in range(1, num_clinics + 1)})
    arrays = model_arrays(build_model(ModelSettings(weights="none"), 5, seed=0))
    seconds = []
    for number in range(1, rounds + 1):
        started = time.perf_counter()
        records = encode_task(Task("train", "plan", number, arrays))
        kind = MESSAGE_TYPES["train"]
        messages = [grid.create_message(records, kind, node, str(number)) for node in grid.get_node_ids()]
        replies = list(grid.send_and_receive(messages))
        seconds.append(time.perf_counter() - started)
        assert len(replies) == num_clinics
    return seconds


def compare_study(folder: Path, repeats: int) -> None:
    """Time bare training, bare training with measuring, and the whole study in turn; print medians and ratios."""
    experiment = an_experiment()
    study = plan_study(experiment)
    start_run(experiment, study, RunFolder(folder / "cells"))  # renders the cells, which is not timed
    opened = [open_clinic(path) for path in sorted(write_clinics(experiment, study, folder / "cells").glob("*.toml"))]
    ways: dict[str, Callable[[int], None]] = {
        "training alone": lambda number: bare(opened, study, measures=False),
        "training and measuring": lambda number: bare(opened, study, measures=True),
        "whole study": lambda number: whole(experiment, study, folder / f"run-{number}"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(repeats + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            way(number)
            seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}  # the first warms up
    cells = sum(int((clinic.cells.split == 0).sum()) for clinic in opened if is_training(clinic))
    print(f"\nthe same study, {study.rounds} rounds of {cells} training cells, median of {repeats}")
    for name, median in medians.items():
        print(f"{name:<24}{median:>8.2f} s{median / medians['training alone']:>8.2f} x")


def whole(experiment: Experiment, study: StudyConfig, folder: Path) -> None:
    """The study as a user runs it, to its report."""
    run = RunFolder(folder)
    start_run(experiment, study, run)
    finish_run(experiment, study, run, "in-process")


def bare(clinics: list[Clinic], study: StudyConfig, *, measures: bool) -> None:
    """The study's gradient steps, from the same first model in every round, and its evaluations if asked for."""
    arrays = model_arrays(build_model(study.model, len(study.classes), derive_seed(study.seed, "model")))
    for number in range(1, study.rounds + 1):
        for clinic in clinics:
            if is_training(clinic):
                train_locally(
                    clinic.model(arrays),
                    clinic.cells.part("train"),
                    study,
                    clinic=clinic.site.clinic,
                    round_number=number,
                    sums=None,
                )
            if measures:
                _measure(clinic, arrays, "val", replicates=0)
    if measures:
        for clinic in clinics:
            _measure(clinic, arrays, "test", replicates=study.evaluation.bootstrap_replicates)


def _measure(clinic: Clinic, arrays: Arrays, split: str, *, replicates: int) -> None:
    cells = clinic.cells.part(split) if is_training(clinic) else clinic.cells
    evaluate(clinic.model(arrays), cells, clinic.device, replicates=replicates, clinic=clinic.site.clinic)


def is_training(clinic: Clinic) -> bool:
    """Whether a clinic trains."""
    return clinic.study.role(clinic.site.clinic) == "train"


def an_experiment() -> Experiment:
    """Three training clinics and a held-out one. No alignment term: its class sums are no gradient work."""
    names = ("east", "north", "south", "west")
    clinics = tuple(
        PhantomClinic(
            clinic=name, role="held-out" if name == "west" else "train", domain="pale_wright", cells=160, patients=16
        )
        for name in names
    )
    study = {
        "name": "benchmark",
        "rounds": 4,
        "images": {"size_px": 32, "framing": "as-is"},
        "loss": {"alignment_weight": 0.0},
    }
    return Experiment(study=study, data=DataSource(kind="phantom", clinics=clinics))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30, help="rounds without work, per number of clinics")
    parser.add_argument("--repeats", type=int, default=3, help="of the study")
    return parser.parse_args()


if __name__ == "__main__":
    main()
