"""What a broken or hostile clinic can send, and what the gate says to it."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wbc_common.errors import UpdateRefused
from wbc_common.study import AggregationSettings
from wbc_common.wire import Evaluation
from wbc_server.aggregation.pieces import PIECE
from wbc_server.gate import check_class_sums, check_confusion, check_evaluation, check_personal, check_update

SETTINGS = AggregationSettings(max_update_norm=10.0)
TEMPLATE = {
    "backbone.0.weight": np.zeros((2, 3), np.float32),
    "backbone.steps": np.array(7, np.int64),
    "head.weight": np.zeros((3, 2), np.float32),
    "head.bias": np.zeros(3, np.float32),
}
DECLARED = np.array([10.0, 2.5, 0.0])


def honest_delta():
    return {key: np.full(value.shape, 0.5, np.float32) for key, value in TEMPLATE.items() if "steps" not in key} | {
        "backbone.steps": np.array(0, np.int64)
    }


def refusal(delta=None, counts=DECLARED, declared=DECLARED):
    """The text with which an update is refused."""
    with pytest.raises(UpdateRefused) as caught:
        check_update(honest_delta() if delta is None else delta, counts, TEMPLATE, declared, SETTINGS)
    assert caught.value.remedy
    return caught.value.problem


def changed(key, value):
    return honest_delta() | {key: value}


def test_an_honest_update_passes():
    check_update(honest_delta(), DECLARED.copy(), TEMPLATE, DECLARED, SETTINGS)


def test_an_update_to_a_half_precision_model_is_still_float32():
    template = {"head.bias": np.zeros(3, np.float16)}
    check_update({"head.bias": np.ones(3, np.float32)}, DECLARED, template, DECLARED, SETTINGS)


def test_a_missing_array_is_named():
    delta = honest_delta()
    del delta["head.bias"]
    assert "3 of 4 arrays; missing: 'head.bias'" in refusal(delta)


def test_extra_arrays_are_named_but_not_at_any_length():
    extra = {f"x\n{index}" + "y" * 10_000: np.zeros(1, np.float32) for index in range(50)}
    problem = refusal(honest_delta() | extra)
    assert "and 47 more" in problem
    assert "\n" not in problem
    assert len(problem) < 500


@pytest.mark.parametrize("shape", [(1,), (), (3, 1), (4,)])
def test_a_shape_that_differs_is_refused_even_if_it_would_broadcast(shape):
    assert f"'head.bias' has shape {shape}, expected (3,)" in refusal(changed("head.bias", np.zeros(shape, np.float32)))


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int64, np.complex64, bool, object, ">f4"])
def test_a_float_array_of_another_dtype_is_refused(dtype):
    assert "'head.bias' is" in refusal(changed("head.bias", np.zeros(3, dtype)))


def test_an_integer_buffer_must_come_as_integers():
    assert "'backbone.steps' is float32, expected int64" in refusal(changed("backbone.steps", np.array(0, np.float32)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("key", ["backbone.0.weight", "head.weight", "head.bias"])
def test_one_value_that_is_not_finite_is_refused(key, value):
    delta = honest_delta()
    delta[key].flat[-1] = value
    assert f"'{key}' holds values that are not finite" in refusal(delta)


def test_the_norm_is_taken_over_all_arrays_together():
    # Three arrays with norms 6, 6 and 6: none is over 10, together √108 = 10.4.
    delta = {key: np.zeros_like(value) for key, value in TEMPLATE.items()}
    for key in ("backbone.0.weight", "head.weight", "head.bias"):
        delta[key].flat[0] = 6.0
    assert "L2 norm 10.4, expected at most 10" in refusal(delta)
    delta["head.bias"].flat[0] = 5.0  # √97 = 9.8
    check_update(delta, DECLARED, TEMPLATE, DECLARED, SETTINGS)


def test_a_norm_beyond_float32_is_refused():
    assert "L2 norm" in refusal(changed("head.bias", np.full(3, 3e38, np.float32)))


def test_the_norm_does_not_overflow_where_float32_would():
    settings = AggregationSettings(max_update_norm=1e30)
    check_update(changed("head.bias", np.full(3, 1e25, np.float32)), DECLARED, TEMPLATE, DECLARED, settings)


@pytest.mark.parametrize("off", [-1e-9, 1e-9])
def test_close_to_the_bound_the_norm_is_taken_in_float64(off):
    template = {"backbone.x": np.zeros(3 * PIECE, np.float32)}
    delta = {"backbone.x": np.random.default_rng(0).normal(size=3 * PIECE).astype(np.float32)}
    norm = math.sqrt(math.fsum(float(value) ** 2 for value in delta["backbone.x"]))
    settings = AggregationSettings(max_update_norm=norm * (1 + off))
    if off > 0:
        check_update(delta, DECLARED, template, DECLARED, settings)
        return
    with pytest.raises(UpdateRefused, match="L2 norm"):
        check_update(delta, DECLARED, template, DECLARED, settings)


def test_a_norm_whose_squares_vanish_in_float32_is_judged_all_the_same():
    delta = changed("head.bias", np.full(3, 1e-30, np.float32))
    delta = {key: np.zeros_like(value) for key, value in delta.items()} | {"head.bias": delta["head.bias"]}
    check_update(delta, DECLARED, TEMPLATE, DECLARED, AggregationSettings(max_update_norm=1.8e-30))  # √3 = 1.73
    with pytest.raises(UpdateRefused, match="L2 norm"):
        check_update(delta, DECLARED, TEMPLATE, DECLARED, AggregationSettings(max_update_norm=1.7e-30))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, PIECE - 1, PIECE, 3 * PIECE - 1])
def test_a_value_that_is_not_finite_is_found_in_every_piece_of_a_large_array(value, place):
    delta = {"backbone.x": np.zeros(3 * PIECE, np.float32)}
    template = {key: array.copy() for key, array in delta.items()}
    delta["backbone.x"][place] = value
    with pytest.raises(UpdateRefused, match=r"'backbone\.x' holds values that are not finite"):
        check_update(delta, DECLARED, template, DECLARED, AggregationSettings(max_update_norm=1e300))


def test_a_refusal_says_nothing_of_the_values():
    delta = changed("head.bias", np.array([1234.5678, np.nan, 1], np.float32))
    assert "1234" not in refusal(delta)


@pytest.mark.parametrize(
    ("counts", "says"),
    [
        ([10.0, np.nan, 0.0], "not all finite"),
        ([10.0, np.inf, 0.0], "not all finite"),
        ([10.0, 2.5, -1.0], "negative"),
        ([10.0, 2.5], "shape (3,)"),
        ([12.5], "shape (3,)"),
        ([[10.0, 2.5, 0.0]], "shape (3,)"),
        ([True, True, False], "expected numbers"),
        ([10j, 2.5, 0], "expected numbers"),
        ([0.0, 0.0, 0.0], "all 0"),
        ([1e12, 2.5, 0.0], "as declared"),
        ([10.0, 2.5, 1e-9], "as declared"),
        ([11.0, 2.5, 0.0], "as declared"),
    ],
)
def test_class_counts_that_are_none_or_not_the_declared_ones_are_refused(counts, says):
    assert says in refusal(counts=np.array(counts))


def test_a_clinic_that_declared_no_cells_cannot_train():
    assert "all 0" in refusal(counts=np.zeros(3), declared=np.zeros(3))


def test_fractional_counts_may_differ_by_rounding():
    summed = np.array([10.0, sum([0.1] * 25), 0.0])
    assert summed[1] != 2.5
    check_update(honest_delta(), summed, TEMPLATE, DECLARED, SETTINGS)


def test_a_confusion_matrix_of_no_more_than_the_declared_cells_passes():
    check_confusion(np.array([[3, 1], [0, 6]]), 10, num_classes=2)
    check_confusion(np.array([[3, 1], [0, 6]]), sum([0.1] * 100), num_classes=2)  # 9.99999…: a sum of fractions
    check_confusion(np.zeros((2, 2), np.int64), 0, num_classes=2)


@pytest.mark.parametrize(
    ("confusion", "says"),
    [
        (np.array([[3, 1], [0, 7]]), "11 cells, expected at most 10"),
        (np.array([[3, -1], [0, 6]]), "negative"),
        (np.full((2, 2), 2**62), "cells, expected at most 10"),  # int64 would wrap around to 0
        (np.array([[3.0, 1.0], [0.0, 6.0]]), "expected int64"),
        (np.array([[3, 1, 0], [0, 6, 0]]), "expected int64 (2, 2)"),
        (np.array([[5]]), "expected int64 (2, 2)"),  # would broadcast
        (np.array([3, 1]), "expected int64 (2, 2)"),
    ],
)
def test_a_confusion_matrix_that_cannot_be_is_refused(confusion, says):
    with pytest.raises(UpdateRefused) as caught:
        check_confusion(confusion, 10, num_classes=2)
    assert says in caught.value.problem


@given(st.integers(0, 10_000), st.integers(1, 60))
def test_sums_of_real_unit_vectors_pass(seed, num_cells):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, num_cells)
    features = generator.normal(size=(num_cells, 4)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    sums = np.stack([features[labels == cell_class].sum(axis=0) for cell_class in range(3)])
    counts = np.bincount(labels, minlength=3).astype(np.float64)
    check_class_sums(sums, counts, counts, num_features=4)


def test_identical_unit_vectors_reach_the_bound_and_pass():
    check_class_sums(np.array([[10.0, 0.0]]), np.array([10.0]), np.array([10.0]), num_features=2)


def test_sums_that_are_too_long_by_rounding_pass():
    check_class_sums(
        np.array([[10.001, 0.0], [1e-7, 0.0]]), np.array([10.0, 0.0]), np.array([10.0, 0.0]), num_features=2
    )


def test_cells_with_coarse_labels_are_declared_but_not_summed():
    check_class_sums(np.array([[6.0, 0.0], [0.0, 0.0]]), np.array([8.0, 0.0]), np.array([8.5, 0.5]), num_features=2)


@pytest.mark.parametrize(
    ("sums", "counts", "says"),
    [
        ([[10.1, 0.0], [0.0, 0.0]], [10.0, 0.0], "[0] are longer than their counts [10.0]"),
        ([[8.0, 8.0], [0.0, 0.0]], [10.0, 0.0], "longer"),  # √128 = 11.3
        ([[1.0, 0.0], [0.1, 0.0]], [10.0, 0.0], "[1] are longer than their counts [0.0]"),
        ([[1e200, 1e200], [0.0, 0.0]], [10.0, 0.0], "longer"),  # its square overflows
        ([[np.nan, 0.0], [0.0, 0.0]], [10.0, 0.0], "not finite"),
        ([[1, 0], [0, 0]], [10.0, 0.0], "expected floating"),
        ([[1.0], [0.0]], [10.0, 0.0], "expected floating (2, 2)"),  # would broadcast
        ([1.0, 0.0], [10.0, 0.0], "expected floating (2, 2)"),
        (1.0, [10.0, 0.0], "expected floating (2, 2)"),
        ([[1.0, 0.0]], [10.0, 0.0], "expected floating (2, 2)"),
        ([[1.0, 0.0], [0.0, 0.0]], [11.0, 0.0], "expected at most [10.0, 0.0]"),
        ([[1.0, 0.0], [0.0, 0.0]], [10.0, -1.0], "negative"),
        ([[1.0, 0.0], [0.0, 0.0]], [np.nan, 0.0], "not all finite"),
        ([[1.0, 0.0], [0.0, 0.0]], [10.0], "expected numbers of shape (2,)"),
    ],
)
def test_class_sums_that_no_unit_vectors_give_are_refused(sums, counts, says):
    with pytest.raises(UpdateRefused) as caught:
        check_class_sums(np.array(sums), np.array(counts), np.array([10.0, 0.0]), num_features=2)
    assert says in caught.value.problem


def evaluation(draws=None, personal=None):
    """Two classes, five cells."""
    none = np.zeros((0, 2, 2), np.int64)
    confusion = np.array([[3, 0], [1, 1]])
    return Evaluation(confusion, none if draws is None else draws, np.zeros(2, np.int64), personal=personal)


def test_a_personal_heads_confusions_are_of_the_same_cells():
    check_personal(evaluation())
    check_personal(evaluation(personal=np.array([[1, 2], [0, 2]])))


@pytest.mark.parametrize(
    "personal",
    [
        np.array([[2, 2], [0, 2]]),
        np.array([[4, -1], [0, 2]]),
        np.zeros((3, 3), np.int64),
        np.array([[2**62, 2**62], [0, 2]]),
    ],
)
def test_a_personal_heads_confusions_of_other_cells_are_refused(personal):
    with pytest.raises(UpdateRefused, match="other cells"):
        check_personal(evaluation(personal=personal))


def test_a_sum_of_personal_confusions_that_wraps_around_is_refused():
    confusion = np.array([[3, 0, 0], [1, 1, 0], [0, 0, 0]])
    wrapping = np.array([[2**63 - 1, 2**63 - 1, 5], [1, 1, 0], [0, 0, 0]])  # sums to 3 modulo 2⁶⁴
    none = np.zeros((0, 3, 3), np.int64)
    with pytest.raises(UpdateRefused, match="other cells"):
        check_personal(Evaluation(confusion, none, np.zeros(2, np.int64), personal=wrapping))


@pytest.mark.parametrize("cell", [-1, 2**31, 2**62])
def test_bootstrap_draws_are_counts_of_32_bits(cell):
    check_evaluation(evaluation(draws=np.full((4, 2, 2), 2**31 - 1)), 5, num_classes=2)
    with pytest.raises(UpdateRefused, match="bootstrap draws"):
        check_evaluation(evaluation(draws=np.full((4, 2, 2), cell)), 5, num_classes=2)
