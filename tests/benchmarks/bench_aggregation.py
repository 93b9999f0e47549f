"""What combining a round's updates costs, from their wire bytes to the next model's, against reading those bytes once.

The ways are timed in turn, so that a machine that slows down slows all of them; on one that does other work too, the
fastest run and the CPU time say more than the median. A few distinct updates stand for many: together they are far
larger than any cache. Freed memory is kept, as in the process in which clinics train, where updates are added five at a
time. Reading has two rows, both on one thread: numpy's sum of the numbers, the plain way to touch each
once, and its sum of the same bytes as 64-bit integers, which comes closer to the speed of memory. What Python and numpy
held at most, beyond the messages, is measured in a run of its own.

With `--precision` the updates come in fewer bits: reading is then of those, and the ways that only take fp32 stay out.
"""

import argparse
import statistics
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from flwr.app import ArrayRecord, RecordDict
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

from wbc_common.cells import CLASSES_11
from wbc_common.head_rows import one_row_a_class
from wbc_common.memory import keep_freed_memory
from wbc_common.models import build_model, model_arrays
from wbc_common.study import AggregationSettings, ModelSettings, UpdatePrecision
from wbc_common.wire import Arrays, RoundReply, Update, decode_update, encode_arrays, encode_reply, record_arrays
from wbc_server.aggregation.weighted_sum import AT_ONCE, WeightedSum
from wbc_server.aggregation.weights import apply_step, plan_weights
from wbc_server.gate import check_update

NUM_CLASSES = 11
SETTINGS = AggregationSettings(rule="fedavg", max_share=1.0)  # so that the result is comparable with Flower's

Way = Callable[[], object]


@dataclass(frozen=True)
class Figures:
    """Seconds by the clock and of CPU, and the most bytes held."""

    median: float
    fastest: float
    cpu: float
    held: float


def main() -> None:
    """Print the table; fail if the two aggregations differ."""
    arguments = parse_arguments()
    if not arguments.fresh_memory:
        keep_freed_memory()
    model = model_arrays(build_model(ModelSettings(backbone=arguments.backbone), one_row_a_class(CLASSES_11), seed=0))
    counts = np.random.default_rng(0).integers(1, 100, size=(arguments.distinct, NUM_CLASSES)).astype(np.float64)
    distinct = [an_update(model, row, seed, arguments.precision) for seed, row in enumerate(counts)]
    order = np.arange(arguments.updates) % arguments.distinct
    messages, counts = [distinct[number] for number in order], counts[order]
    ways: dict[str, Way] = {
        "reading once": lambda: read(messages, np.sum),
        "reading once, as integers": lambda: read(messages, sum_as_integers),
        "wbc-fl": lambda: aggregate(model, messages, counts),
        "wbc-fl without its gate": lambda: aggregate(model, messages, counts, gated=False),
        "wbc-fl, one update at a time": lambda: aggregate(model, messages, counts, at_once=1),
    }
    if arguments.precision == "fp32":
        check_results(model, messages, counts)
        ways["adding in place in float32"] = lambda: add_in_float32(messages)
        ways["Flower's aggregation"] = lambda: aggregate_arrayrecords(messages, "cells")
    size_mb = sum(len(array.data) for array in messages[0].array_records["update"].values()) / 1e6
    print(
        f"{arguments.updates} updates ({arguments.distinct} distinct) of {size_mb:.1f} MB ({arguments.precision}), "
        f"{arguments.backbone}; {torch.get_num_threads()} threads; {arguments.repeats} repeats"
    )
    print_table(measure(ways, arguments.repeats))


def an_update(model: Arrays, counts: np.ndarray, seed: int, sent_as: UpdatePrecision) -> RecordDict:
    """One clinic's message with a small random change of every array."""
    generator = np.random.default_rng(seed)
    delta = {key: 0.01 * generator.standard_normal(value.shape, dtype=np.float32) for key, value in model.items()}
    num_cells = int(counts.sum())
    return encode_reply(RoundReply(Update(delta, counts, {"loss": 1.0}, num_cells, seconds=1.0, sent_as=sent_as)))


def read(messages: Sequence[RecordDict], touch: Callable[[np.ndarray], object]) -> None:
    """Touch every number of every update once, without copying any."""
    for message in messages:
        for array in message.array_records["update"].values():
            touch(numbers_of(array.data, np.dtype(array.dtype)))


def sum_as_integers(values: np.ndarray) -> object:
    """The sum of a number's neighbours as if they were 64-bit integers."""
    whole = values.nbytes // 8 * 8 // values.itemsize
    return values[:whole].view(np.uint64).sum()


def numbers_of(data: bytes, dtype: np.dtype) -> np.ndarray:
    """The numbers behind a header of numpy's, whose length its bytes 8 and 9 say."""
    return np.frombuffer(data, dtype, offset=10 + int.from_bytes(data[8:10], "little"))


def add_in_float32(messages: Sequence[RecordDict]) -> None:
    """The least that any aggregation does: no weights, no gate, sums in float32."""
    sums: dict[str, np.ndarray] = {}
    for message in messages:
        for key, array in message.array_records["update"].items():
            values = numbers_of(array.data, np.dtype(np.float32))
            total = sums.setdefault(key, np.zeros_like(values))
            np.add(total, values, out=total)


def aggregate(
    model: Arrays, messages: Sequence[RecordDict], counts: np.ndarray, *, gated: bool = True, at_once: int = AT_ONCE
) -> ArrayRecord:
    """What the strategy does with a round's replies: decode, check, add, step, encode. `counts`: float64 [K, C].

    Between hospitals it adds one update at a time, so that none waits in memory.
    """
    weights = plan_weights(counts, SETTINGS)
    total = WeightedSum(at_once)
    for clinic, message in enumerate(messages):
        update = decode_update(message)
        if gated:
            check_update(update.delta, update.class_counts, model, counts[clinic], SETTINGS)
        total.add(update.delta, float(weights.backbone[clinic]), weights.head[clinic])
    return encode_arrays(apply_step(model, total.mean(), SETTINGS.step_size))


def check_results(model: Arrays, messages: Sequence[RecordDict], counts: np.ndarray) -> None:
    """Both aggregations give the same change of the model, as far as Flower's float32 goes."""
    ours = record_arrays(aggregate(model, messages, counts))
    theirs = record_arrays(aggregate_arrayrecords(list(messages), "cells"))
    for key, value in model.items():
        np.testing.assert_allclose(ours[key], value + theirs[key], rtol=1e-5, atol=1e-6, err_msg=key)


def measure(ways: dict[str, Way], repeats: int) -> dict[str, Figures]:
    """Time all ways in turn, several times."""
    clock: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            started, started_cpu = time.perf_counter(), time.process_time()
            way()
            clock[name].append(time.perf_counter() - started)
            cpu[name].append(time.process_time() - started_cpu)
    return {
        name: Figures(statistics.median(clock[name]), min(clock[name]), statistics.median(cpu[name]), held_bytes(way))
        for name, way in ways.items()
    }


def held_bytes(way: Way) -> float:
    """The most that one run held."""
    tracemalloc.start()
    way()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def print_table(rows: dict[str, Figures]) -> None:
    """A row a way; × and ×i: its ratios to both ways of reading."""
    plain, integers = list(rows.values())[:2]
    print(f"{'':<28}{'median s':>9}{'×':>7}{'×i':>7}{'fastest s':>11}{'×':>7}{'×i':>7}{'CPU s':>9}{'×':>7}{'MB':>7}")
    for name, row in rows.items():
        print(
            f"{name:<28}{row.median:>9.3f}{row.median / plain.median:>7.2f}{row.median / integers.median:>7.2f}"
            f"{row.fastest:>11.3f}{row.fastest / plain.fastest:>7.2f}{row.fastest / integers.fastest:>7.2f}"
            f"{row.cpu:>9.3f}{row.cpu / plain.cpu:>7.2f}{row.held / 1e6:>7.0f}"
        )


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=50)
    parser.add_argument("--distinct", type=int, default=10, help="updates with bytes of their own")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--precision", default="fp32", choices=get_args(UpdatePrecision))
    parser.add_argument("--fresh-memory", action="store_true", help="freed memory goes back to the system")
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
