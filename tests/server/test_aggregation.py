"""Class-count-aware FedAvg against slow loops written straight from docs/method.md §2, and its exact limits."""

import errno
import gc
import os
import shutil
import tracemalloc
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wbc_common.errors import WbcError
from wbc_common.study import AggregationSettings
from wbc_server.aggregation import add_scaled as adding
from wbc_server.aggregation.add_scaled import add_scaled
from wbc_server.aggregation.pieces import PIECE
from wbc_server.aggregation.sums import SumsInFile
from wbc_server.aggregation.weighted_sum import WeightedSum
from wbc_server.aggregation.weights import (
    apply_step,
    backbone_shares,
    backbone_weights,
    cap_shares,
    fedavg_weights,
    head_weights,
    plan_weights,
)

D = 3
alphas = st.floats(0, 1)
smoothings = st.floats(0, 20)
seeds = st.integers(0, 10_000)
cells = st.one_of(st.just(0.0), st.integers(1, 5000).map(float), st.floats(0.1, 50))


@st.composite
def count_tables(draw, cell=cells):
    """Class counts [K, C], every clinic with at least one cell."""
    num_clinics, num_classes = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    rows = st.lists(cell, min_size=num_classes, max_size=num_classes).filter(any)
    return np.array([draw(rows) for _ in range(num_clinics)])


def random_arrays(seed, num_classes):
    generator = np.random.default_rng(seed)
    shapes = {"backbone.0.weight": (2, D), "head.weight": (num_classes, D), "head.bias": (num_classes,)}
    return {key: generator.normal(size=shape).astype(np.float32) for key, shape in shapes.items()}


def random_deltas(seed, counts):
    return [random_arrays([seed, clinic], counts.shape[1]) for clinic in range(len(counts))]


def mean_delta(deltas, counts, **settings):
    """What the coordinator computes."""
    weights = plan_weights(counts, AggregationSettings(**settings))
    total = WeightedSum()
    for clinic, delta in enumerate(deltas):
        total.add(delta, weights.backbone[clinic], weights.head[clinic])
    return total.mean()


def looped_mean_delta(deltas, counts, alpha, head_smoothing):
    """The same from the formulas of docs/method.md §2, scalar by scalar."""
    clinics, classes = range(counts.shape[0]), range(counts.shape[1])
    per_class = [sum(counts[k][c] for k in clinics) for c in classes]
    per_clinic = [sum(counts[k][c] for c in classes) for k in clinics]
    present = [n for n in per_class if n > 0]
    mean_count = sum(present) / len(present)
    lift = [min((mean_count / n) ** alpha, 10) if n > 0 else 0 for n in per_class]
    u = [sum(lift[c] * counts[k][c] for c in classes) for k in clinics]
    v = [
        [counts[k][c] + head_smoothing * per_clinic[k] * per_class[c] / sum(per_clinic) for c in classes]
        for k in clinics
    ]
    mean = {key: np.zeros(value.shape) for key, value in deltas[0].items()}
    for key, value in mean.items():
        for index in np.ndindex(value.shape):
            weights = [v[k][index[0]] for k in clinics] if key.startswith("head.") else u
            if sum(weights) > 0:
                value[index] = sum(weights[k] * float(deltas[k][key][index]) for k in clinics) / sum(weights)
    return mean


def fedavg_mean_delta(deltas, counts):
    """McMahan et al. 2017, as numpy's own weighted average."""
    cells = counts.sum(axis=1)
    return {
        key: np.average([delta[key].astype(np.float64) for delta in deltas], axis=0, weights=cells) for key in deltas[0]
    }


def rows_of(arrays, classes):
    """The same arrays with only some head rows."""
    return {key: value[classes] if key.startswith("head.") else value for key, value in arrays.items()}


def assert_same(got, expected, rtol=1e-9):
    assert got.keys() == expected.keys()
    for key, value in got.items():
        np.testing.assert_allclose(value, expected[key], rtol=rtol, atol=rtol, err_msg=key)


def test_weights_are_those_worked_out_by_hand():
    # N_c = [100, 20], N̄ = 60, so with α = 1: a = [0.6, 3]. n_k = [100, 20], N = 120.
    counts = np.array([[90.0, 10.0], [10.0, 10.0]])
    np.testing.assert_allclose(backbone_weights(counts, 1.0), [84, 36])
    np.testing.assert_allclose(head_weights(counts, 0.6), [[90 + 50, 10 + 10], [10 + 10, 10 + 2]])


def test_a_very_rare_class_lifts_a_clinic_tenfold_at_most():
    # N_c = [999, 1], N̄ = 500: a = [500/999, min(500, 10)].
    np.testing.assert_allclose(backbone_weights(np.array([[999.0, 0.0], [0.0, 1.0]]), 1.0), [500, 10])


def test_a_class_without_cells_has_no_part_in_the_mean_count():
    # Present classes have 4 and 16 cells: N̄ = 10, not 20/3.
    np.testing.assert_allclose(backbone_weights(np.array([[4.0, 0.0, 16.0]]), 1.0), [4 * 2.5 + 16 * 0.625])


def test_fedavg_weighs_everything_by_cells():
    weights = fedavg_weights(np.array([[3.0, 1.0], [0.0, 2.0]]))
    np.testing.assert_array_equal(weights.backbone, [4, 2])
    np.testing.assert_array_equal(weights.head, [[4, 4], [2, 2]])


def test_no_cells_at_all_gives_weights_of_zero_and_an_unchanged_model():
    counts = np.zeros((2, 3))
    model = random_arrays(0, 3)
    changed = apply_step(model, mean_delta(random_deltas(1, counts), counts), 1.0)
    for key, value in changed.items():
        np.testing.assert_array_equal(value, model[key])


@given(count_tables(), alphas, smoothings, seeds)
def test_the_rule_equals_loops_over_its_formulas(counts, alpha, head_smoothing, seed):
    deltas = random_deltas(seed, counts)
    got = mean_delta(deltas, counts, alpha=alpha, head_smoothing=head_smoothing)
    assert_same(got, looped_mean_delta(deltas, counts, alpha, head_smoothing))


@given(count_tables(), seeds)
def test_the_fedavg_rule_is_the_average_by_cells(counts, seed):
    deltas = random_deltas(seed, counts)
    assert_same(mean_delta(deltas, counts, rule="fedavg"), fedavg_mean_delta(deltas, counts))


@given(count_tables(), seeds)
def test_limit_1_no_lift_and_endless_smoothing_is_fedavg(counts, seed):
    deltas = random_deltas(seed, counts)
    held = counts.sum(axis=0) > 0
    got = mean_delta(deltas, counts, alpha=0.0, head_smoothing=1e12)
    assert_same(rows_of(got, held), rows_of(fedavg_mean_delta(deltas, counts), held))


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=5), st.integers(1, 5), alphas, smoothings, seeds)
def test_limit_2_without_imbalance_inside_any_clinic_it_is_fedavg(per_clinic, num_classes, alpha, smoothing, seed):
    counts = np.repeat(np.array(per_clinic, dtype=np.float64)[:, None], num_classes, axis=1)
    deltas = random_deltas(seed, counts)
    got = mean_delta(deltas, counts, alpha=alpha, head_smoothing=smoothing)
    assert_same(got, fedavg_mean_delta(deltas, counts))


@given(st.lists(st.integers(1, 100), min_size=1, max_size=5), count_tables(), alphas, smoothings, seeds)
def test_limit_3_the_same_long_tailed_mix_everywhere_is_fedavg(sizes, table, alpha, smoothing, seed):
    counts = np.outer(sizes, table[0])
    held = table[0] > 0
    deltas = random_deltas(seed, counts)
    got = mean_delta(deltas, counts, alpha=alpha, head_smoothing=smoothing)
    assert_same(rows_of(got, held), rows_of(fedavg_mean_delta(deltas, counts), held))


@given(count_tables(), alphas, seeds, st.data())
def test_limit_4_a_class_of_one_clinic_has_that_clinics_row(counts, alpha, seed, data):
    owner = data.draw(st.integers(0, len(counts) - 1))
    counts[:, 0] = 0
    counts[owner, 0] = 7
    deltas = random_deltas(seed, counts)
    got = mean_delta(deltas, counts, alpha=alpha, head_smoothing=0.0)
    np.testing.assert_allclose(got["head.weight"][0], deltas[owner]["head.weight"][0], rtol=1e-12)
    np.testing.assert_allclose(got["head.bias"][0], deltas[owner]["head.bias"][0], rtol=1e-12)


@given(count_tables(), alphas, smoothings, seeds)
def test_limit_5_one_clinic_alone_gets_its_own_model_in_all_it_holds(counts, alpha, smoothing, seed):
    counts = counts[:1]
    (delta,) = random_deltas(seed, counts)
    model = random_arrays(seed + 1, counts.shape[1])
    own = {key: model[key].astype(np.float64) + delta[key] for key in model}
    held = counts[0] > 0
    got = apply_step(model, mean_delta([delta], counts, alpha=alpha, head_smoothing=smoothing), 1.0)
    assert_same(rows_of(got, held), rows_of(own, held), rtol=1e-6)
    np.testing.assert_array_equal(got["head.weight"][~held], model["head.weight"][~held])
    np.testing.assert_array_equal(got["head.bias"][~held], model["head.bias"][~held])


@given(count_tables(), alphas, smoothings, seeds, st.integers(2, 1000))
def test_limit_6_all_counts_times_m_change_nothing(counts, alpha, smoothing, seed, factor):
    deltas = random_deltas(seed, counts)
    settings = {"alpha": alpha, "head_smoothing": smoothing}
    assert_same(mean_delta(deltas, counts * factor, **settings), mean_delta(deltas, counts, **settings))


@given(count_tables(), alphas, smoothings, seeds)
def test_limit_6_splitting_a_clinic_with_the_same_update_changes_nothing(counts, alpha, smoothing, seed):
    deltas = random_deltas(seed, counts)
    part = counts[-1] * np.random.default_rng(seed).uniform(size=counts.shape[1])  # another share of each class
    split = np.vstack([counts[:-1], part, counts[-1] - part])
    settings = {"alpha": alpha, "head_smoothing": smoothing}
    assert_same(mean_delta([*deltas, deltas[-1]], split, **settings), mean_delta(deltas, counts, **settings))


@given(alphas, smoothings, seeds)
def test_equal_counts_everywhere_give_the_plain_mean(alpha, smoothing, seed):
    counts = np.full((4, 3), 25.0)
    deltas = random_deltas(seed, counts)
    plain = {key: np.mean([delta[key].astype(np.float64) for delta in deltas], axis=0) for key in deltas[0]}
    assert_same(mean_delta(deltas, counts, alpha=alpha, head_smoothing=smoothing), plain)


def test_a_row_that_nobody_weighs_stays_while_the_others_move():
    delta = {"backbone.x": np.full(2, 4, np.float32), "head.bias": np.full(2, 4, np.float32)}
    total = WeightedSum()
    total.add(delta, 0.0, np.array([2.0, 0.0]))
    np.testing.assert_array_equal(total.mean()["backbone.x"], [0, 0])
    np.testing.assert_array_equal(total.mean()["head.bias"], [4, 0])


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


def test_a_step_keeps_each_dtype_and_leaves_integer_buffers():
    model = {
        "backbone.x": np.array([1.0], np.float32),
        "backbone.scale": np.array(2.0, np.float16),
        "backbone.steps": np.array(9, np.int64),
    }
    delta = {"backbone.x": np.ones(1, np.float32), "backbone.scale": np.float32(1), "backbone.steps": np.array(5)}
    total = WeightedSum()
    total.add(delta, 3.0, np.ones(2))
    stepped = apply_step(model, total.mean(), 0.5)
    assert {key: (value.dtype, value.shape) for key, value in stepped.items()} == {
        key: (value.dtype, value.shape) for key, value in model.items()
    }
    assert [float(np.sum(value)) for value in stepped.values()] == [1.5, 2.5, 9.0]


def test_a_step_does_not_write_into_the_model_it_starts_from():
    model = {"backbone.x": np.ones(1, np.float32), "backbone.steps": np.array([9])}
    stepped = apply_step(model, {"backbone.x": np.ones(1)}, 1.0)
    stepped["backbone.x"][:] = stepped["backbone.steps"][:] = -1
    assert (model["backbone.x"][0], model["backbone.steps"][0]) == (1, 9)


@pytest.mark.parametrize(
    ("weights", "max_share", "expected"),
    [
        ([80, 10, 10], 1.0, [80, 10, 10]),
        ([80, 10, 10], 0.5, [20, 10, 10]),
        ([60, 30, 5, 5], 0.4, [20, 20, 5, 5]),
        ([5, 5, 5], 0.4, [5, 5, 5]),
        ([5, 3, 4], 0.2, [3, 3, 3]),  # 1/3 > 0.2: cannot hold, so uniform
        ([5, 3, 0], 0.4, [3, 3, 0]),  # only two have something to say
        ([7, 0], 0.5, [7, 0]),  # the only holder decides
        ([0, 0], 0.5, [0, 0]),
    ],
)
def test_shares_are_capped_as_worked_out_by_hand(weights, max_share, expected):
    np.testing.assert_allclose(cap_shares(np.array(weights, float), max_share), expected)


@given(st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=12), st.floats(0.05, 1))
def test_a_cap_that_can_hold_holds_and_keeps_the_lighter_clinics(weights, max_share):
    before = np.array(weights)
    after = cap_shares(before, max_share)
    assert (after <= before).all()
    assert (after > 0).all()
    assert after.max() / after.sum() <= max(max_share, 1 / len(before)) * (1 + 1e-9)
    lowered = after < before
    np.testing.assert_allclose(after[lowered], after.max(), rtol=1e-12)


def test_a_cap_of_a_third_holds_beside_a_clinic_of_almost_no_weight():
    capped = cap_shares(np.array([9.0, 5.0, 1.0, 1e-18]), 1 / 3)
    np.testing.assert_allclose(capped, [1, 1, 1, 1e-18])


def test_each_head_row_is_capped_by_itself():
    settings = AggregationSettings(head_smoothing=0.0, alpha=0.0, max_share=0.5)
    weights = plan_weights(np.array([[80.0, 5.0], [10.0, 5.0], [10.0, 5.0]]), settings)
    np.testing.assert_allclose(weights.head, [[20, 5], [10, 5], [10, 5]])
    np.testing.assert_allclose(weights.backbone, [30, 15, 15])


def test_uniform_weighs_every_clinic_the_same_for_every_row() -> None:
    weights = plan_weights(np.array([[900.0, 0], [1, 9]]), AggregationSettings(rule="uniform"))
    assert (weights.backbone.tolist(), weights.head.tolist()) == ([1, 1], [[1, 1], [1, 1]])


def test_shares_of_the_backbone_are_those_of_the_weights_and_equal_under_an_order_statistic():
    counts = np.array([[6.0, 0], [2, 2]])
    # FedAvg: 6 and 4 cells. Class-count-aware, alpha 1: a = (5/8, 5/2), so 6·5/8 and 2·5/8 + 2·5/2.
    assert backbone_shares(counts, AggregationSettings(rule="fedavg")).tolist() == [0.6, 0.4]
    assert backbone_shares(counts, AggregationSettings(alpha=1.0)).tolist() == [0.375, 0.625]
    assert backbone_shares(counts, AggregationSettings(robust="krum")).tolist() == [0.5, 0.5]
