"""Class-count-aware FedAvg against slow loops written straight from docs/method.md §2, and its exact limits."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from wbc_common.study import AggregationSettings
from wbc_server.aggregation.weighted_sum import WeightedSum
from wbc_server.aggregation.weights import (
    apply_step,
    backbone_weights,
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
