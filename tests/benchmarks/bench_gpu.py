"""What a training step costs on a GPU: the whole step, and what of it remains where the batch lies there ready.

Cells of 64 px in batches of 32, as local training takes them; milliseconds a step, with the device waited for, medians
over turns. "plain" is the network, a cross-entropy and the optimiser on a batch that lies on the device: it augments
nothing, has no guide and keeps no terms. "private" is DP-SGD's step, which computes in fp32.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch.nn import functional as F

from wbc_client.dataset.cell_set import CellSet
from wbc_client.device import as_input, choose_device, compute_reproducibly
from wbc_client.precision import computing_in
from wbc_client.state.privacy_budget import Spending
from wbc_client.training.course import build_optimizer
from wbc_client.training.local import train_locally
from wbc_client.training.private import train_privately
from wbc_common.appearance import normalise
from wbc_common.models import Network, build_model
from wbc_common.study import StudyConfig, parse_study

CLASSES, SIZE, BATCH = 13, 64, 32
Way = Callable[[], None]


def main() -> None:
    """Print milliseconds a step for each backbone and way."""
    arguments = parse_arguments()
    device = choose_device(arguments.device)
    compute_reproducibly()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}, torch {torch.__version__}, {arguments.steps} steps of {BATCH} cells")
    for backbone in ("cnn-small", "p4cnn-small", "resnet18"):
        ways = ways_of(backbone, device, arguments.steps)
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(arguments.turns + 1):
            for way, run in ways.items():
                taken = timed(run, device)
                if turn:  # the first warms up
                    seconds[way].append(taken)
        for way, values in seconds.items():
            print(f"{backbone:<22}{way:<20}{1e3 * statistics.median(values) / arguments.steps:>9.2f} ms", flush=True)


def timed(run: Way, device: torch.device) -> float:
    """Seconds until the device has done the work."""
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def ways_of(backbone: str, device: torch.device, steps: int) -> dict[str, Way]:
    """Each way of taking so many steps."""
    cells = some_cells(steps * BATCH)

    def study(precision: str = "fp32", **tables: object) -> StudyConfig:
        values = {
            "name": "steps",
            "clinics": {"train": ["a"]},
            "model": {"backbone": backbone, "weights": "none"},
            "training": {"local_epochs": 1, "batch_size": BATCH, "precision": precision},
            "loss": {"alignment_weight": 0.0},
        }
        return parse_study({**values, **tables}, "bench")

    def model(plan: StudyConfig) -> Network:
        built = build_model(plan.model, plan.head_rows, seed=0)
        return built.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def ours(precision: str) -> Way:
        plan = study(precision)
        return lambda: void(train_locally(model(plan), cells, plan, clinic="a", round_number=1, sums=None))

    def plain(precision: str) -> Way:
        plan = study(precision)
        return lambda: plain_steps(model(plan), plan, cells, steps, device)

    private = study(privacy={"mode": "dp-sgd"})
    spending = Spending(1.0, BATCH / len(cells), steps)
    return {
        "plain, fp32": plain("fp32"),
        "ours, fp32": ours("fp32"),
        "plain, bf16": plain("bf16"),
        "ours, bf16": ours("bf16"),
        "ours, private": lambda: train_privately(model(private), cells, private, round_number=1, spending=spending),
    }


def plain_steps(model: Network, plan: StudyConfig, cells: CellSet, steps: int, device: torch.device) -> None:
    """The network's own work on one batch, again and again."""
    optimizer = build_optimizer(model.train(), plan.training, plan.training.learning_rate)
    images = as_input(normalise(cells.images[:BATCH].to(device).float() / 255), device)
    labels = cells.labels[:BATCH].to(device)
    precision = "bf16" if plan.training.precision == "bf16" else "fp32"
    for _ in range(steps):
        with computing_in(precision, device):
            features = model.features(images)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(F.cross_entropy(model.head(features.float()), labels))
        optimizer.step()


def some_cells(number: int) -> CellSet:
    """Cells of random pixels."""
    images = torch.randint(0, 256, (number, 3, SIZE, SIZE), dtype=torch.uint8)
    allowed = F.one_hot(torch.arange(number) % CLASSES, CLASSES).bool()
    return CellSet(images, allowed, torch.arange(number), torch.zeros(number, dtype=torch.int64))


def void(_: object) -> None:
    """Drop a result."""


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--turns", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
