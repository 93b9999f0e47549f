"""Updates are added with the bits of a plain float64 sum, one piece at a time."""

import errno
import gc
import os
import shutil
import tracemalloc
import weakref

import numpy as np
import pytest

from wbc_common.errors import WbcError
from wbc_server.aggregation import add_scaled as adding
from wbc_server.aggregation.add_scaled import add_scaled
from wbc_server.aggregation.pieces import PIECE
from wbc_server.aggregation.sums import SumsInFile
from wbc_server.aggregation.weighted_sum import WeightedSum
from wbc_server.aggregation.weights import (
    apply_step,
)


def test_small_changes_are_not_lost_beside_large_ones():
    # In float32, 1e8 + 1 - 1e8 is 0.
    total = WeightedSum()
    for value in (1e8, 1.0, -1e8):
        total.add({"backbone.x": np.array([value], np.float32)}, 1.0, np.zeros(2))
    np.testing.assert_allclose(total.mean()["backbone.x"], [1 / 3])


def test_adding_takes_no_second_copy_of_a_model():
    delta = {"backbone.x": np.ones((4000, 1000), np.float32), "head.weight": np.ones((5, 1000), np.float32)}
    total = WeightedSum(at_once=1)
    total.add(delta, 1.0, np.ones(5))
    tracemalloc.start()
    total.add(delta, 1.0, np.ones(5))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 8_000_000  # a float64 copy would be 32 MB, a float32 one 16 MB


def test_sums_in_a_file_are_not_in_memory(tmp_path):
    delta = {f"backbone.{number}": np.ones((1000, 1000), np.float32) for number in range(8)}
    tracemalloc.start()
    try:
        total = WeightedSum(at_once=1, sums=SumsInFile(tmp_path))
        for _ in range(2):
            total.add(delta, 1.0, np.ones(5))
        adding = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        stepped = apply_step(delta, total.mean(), 1.0)
        stepping = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert adding < 16e6  # a few pieces of 2 MB; the sums are 64 MB
    assert stepping < 32e6 + 16e6  # the new model, an array in float64 and pieces of it
    assert all((value == 2).all() for value in stepped.values())
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_cannot_take_the_sums_is_said(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    total = WeightedSum(at_once=1, sums=SumsInFile(tmp_path))
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(WbcError, match="No space left on device"):
        total.add({"backbone.x": np.ones(3, np.float32)}, 1.0, np.ones(2))


def test_every_element_of_a_large_array_is_added():
    delta = np.arange(300_000, dtype=np.float32).reshape(3, 100_000)
    total = WeightedSum()
    total.add({"backbone.x": delta}, 2.0, np.ones(2))
    total.add({"backbone.x": -delta}, 1.0, np.ones(2))
    np.testing.assert_allclose(total.mean()["backbone.x"], delta.astype(np.float64) / 3, rtol=1e-12)


@pytest.fixture(params=["compiled", "numpy"])
def each_way_of_adding(request, monkeypatch):
    """In C and, as where there is no compiler, by numpy."""
    if request.param == "numpy":
        monkeypatch.setattr(adding, "load_library", lambda *_: None)
    elif shutil.which(os.environ.get("CC", "cc")) is None:
        pytest.skip("no C compiler here")
    else:
        assert adding.load_library(adding.SOURCE, adding.ROUND_EACH) is not None


@pytest.mark.usefixtures("each_way_of_adding")
@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 1000])
@pytest.mark.parametrize("number", [1, 2, 5, 11])
def test_scaled_values_are_added_with_the_bits_of_numpys_own_sum(size, number):
    generator = np.random.default_rng([size, number])
    padded = generator.normal(size=(number, size + 1)).astype(np.float32)
    values = [row[1:] for row in padded]  # apart from each other, and off a vector's alignment
    weights = generator.uniform(1, 5000, size=number).tolist()
    total = generator.normal(size=size)
    expected = total.copy()
    for value, weight in zip(values, weights, strict=True):
        expected += weight * value.astype(np.float64)
    add_scaled(total, values, weights)
    np.testing.assert_array_equal(total, expected)


@pytest.mark.usefixtures("each_way_of_adding")
@pytest.mark.parametrize(("threads", "at_once"), [(1, 5), (2, 5), (3, 5), (2, 1), (2, 2)])
@pytest.mark.parametrize("in_file", [False, True])
def test_the_bits_are_those_of_a_plain_float64_sum_whatever_the_threads_and_however_many_wait(
    threads, at_once, in_file, torch_threads, tmp_path
):
    torch_threads(threads)
    generator = np.random.default_rng(0)
    shapes = {"backbone.small": (5, 7), "backbone.large": (3, PIECE + 1), "head.weight": (2, 4)}
    total = WeightedSum(at_once, SumsInFile(tmp_path) if in_file else None)
    plain = {key: np.zeros(shape) for key, shape in shapes.items()}
    for weight in (0.1, 1 / 3, 12345.678):
        delta = {key: generator.normal(size=shape).astype(np.float32) for key, shape in shapes.items()}
        total.add(delta, weight, np.array([weight, weight]))
        for key, value in delta.items():
            plain[key] += weight * value.astype(np.float64)
    weights = 0.1 + 1 / 3 + 12345.678
    for key, value in total.mean().items():
        np.testing.assert_array_equal(value, plain[key] / weights, err_msg=key)


def test_updates_whose_bytes_lie_badly_are_added():
    raw = b"?" + np.arange(6, dtype=np.float32).tobytes()
    odd = np.frombuffer(raw, np.float32, offset=1).reshape(2, 3)
    assert not odd.flags.aligned
    total = WeightedSum()
    total.add({"backbone.x": odd, "backbone.y": np.asfortranarray(odd)}, 2.0, np.ones(2))
    for value in total.mean().values():
        np.testing.assert_array_equal(value, [[0, 1, 2], [3, 4, 5]])


def test_one_at_a_time_keeps_no_update():
    delta = {"backbone.x": np.ones(3, np.float32), "head.bias": np.ones(2, np.float32)}
    kept = weakref.ref(delta["backbone.x"])
    total = WeightedSum(at_once=1)
    total.add(delta, 2.0, np.ones(2))
    del delta
    gc.collect()
    assert kept() is None


def test_updates_that_cannot_be_written_are_added():
    delta = {"backbone.x": np.ones(3, np.float32), "head.bias": np.ones(2, np.float32)}
    for value in delta.values():
        value.flags.writeable = False
    total = WeightedSum()
    total.add(delta, 2.0, np.ones(2))
    np.testing.assert_array_equal(total.mean()["backbone.x"], [1, 1, 1])


def test_a_shape_that_would_broadcast_is_not_added():
    total = WeightedSum()
    total.add({"backbone.x": np.ones(3, np.float32)}, 1.0, np.ones(2))
    with pytest.raises(AssertionError, match=r"backbone\.x"):
        total.add({"backbone.x": np.ones(1, np.float32)}, 1.0, np.ones(2))
