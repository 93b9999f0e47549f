"""Counts that add and the rates derived from them, against scikit-learn, slow loops and numbers worked by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics

from wbc_common.confusion import (
    accuracy,
    balanced_accuracy,
    bootstrap_confusions,
    confusion_matrix,
    draw_group_weights,
    f1,
    macro_f1,
    percentile_interval,
    pooled_recall,
    rare_classes,
    recall,
    support,
    wilson_interval,
)

CLASSES = 4


def cells(seed: int, number: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """True and predicted classes int64 [N], [N]; every class is there."""
    generator = np.random.default_rng(seed)
    true = np.concatenate([np.arange(CLASSES), generator.integers(0, CLASSES, number)])
    noise = generator.integers(0, CLASSES, len(true))
    return true, np.where(generator.random(len(true)) < 0.6, true, noise)


@pytest.mark.parametrize("seed", range(3))
def test_with_every_class_present_scikit_learn_agrees(seed: int) -> None:
    true, predicted = cells(seed)
    found = confusion_matrix(true, predicted, CLASSES)
    assert np.array_equal(found, metrics.confusion_matrix(true, predicted))
    assert found.dtype == np.int64
    assert recall(found) == pytest.approx(metrics.recall_score(true, predicted, average=None))
    assert f1(found) == pytest.approx(metrics.f1_score(true, predicted, average=None))
    assert float(macro_f1(found)) == pytest.approx(metrics.f1_score(true, predicted, average="macro"))
    assert float(accuracy(found)) == pytest.approx(metrics.accuracy_score(true, predicted))
    assert float(balanced_accuracy(found)) == pytest.approx(metrics.balanced_accuracy_score(true, predicted))


# Three classes, the last without a cell; 10 cells of A of which 2 go to the absent C, 4 of B of which 1 goes to A.
ABSENT = np.array([[8, 0, 2], [1, 3, 0], [0, 0, 0]], dtype=np.int64)


def test_a_class_without_cells_has_no_rate_and_does_not_enter_the_means() -> None:
    # F1_A = 16/(16+1+2) = 16/19; F1_B = 6/(6+0+1) = 6/7; C is not measured.
    assert f1(ABSENT) == pytest.approx([16 / 19, 6 / 7, np.nan], nan_ok=True)
    assert recall(ABSENT) == pytest.approx([0.8, 0.75, np.nan], nan_ok=True)
    assert float(macro_f1(ABSENT)) == pytest.approx((16 / 19 + 6 / 7) / 2)
    assert float(balanced_accuracy(ABSENT)) == pytest.approx(0.775)
    assert float(accuracy(ABSENT)) == pytest.approx(11 / 14)


def test_macro_f1_of_classes_with_enough_cells_goes_by_the_cells_that_were_drawn_from() -> None:
    assert float(macro_f1(ABSENT, least_cells=5)) == pytest.approx(16 / 19)
    assert np.isnan(macro_f1(ABSENT, least_cells=11))
    draws = np.array([[[4, 0, 0], [0, 6, 0], [0, 0, 0]], [[0, 0, 0], [0, 10, 0], [0, 0, 0]]])
    # The first class counts in both draws: with 4 cells in one, with none (so as it was observed) in the other.
    assert macro_f1(draws, ABSENT, least_cells=5) == pytest.approx([1.0, 16 / 19])


def test_our_macro_f1_differs_from_scikit_learns_where_a_class_is_absent_but_predicted() -> None:
    true = np.repeat([0, 0, 1, 1], [8, 2, 1, 3])
    predicted = np.repeat([0, 2, 0, 1], [8, 2, 1, 3])
    assert np.array_equal(confusion_matrix(true, predicted, 3), ABSENT)
    theirs = metrics.f1_score(true, predicted, average="macro")  # counts C with F1 = 0
    assert theirs == pytest.approx((16 / 19 + 6 / 7) / 3)
    assert float(macro_f1(ABSENT)) == pytest.approx(1.5 * theirs)


def test_rates_broadcast_over_leading_axes() -> None:
    stack = np.stack([ABSENT, np.diag([1, 2, 3]), np.zeros((3, 3), dtype=np.int64)])
    for rate in (macro_f1, balanced_accuracy, accuracy, f1, recall, support):
        one_by_one = np.stack([rate(matrix) for matrix in stack])
        np.testing.assert_array_equal(rate(stack), one_by_one)
    assert macro_f1(stack)[1] == 1.0
    assert np.isnan([macro_f1(stack)[2], accuracy(stack)[2], balanced_accuracy(stack)[2]]).all()


def test_pooled_recall_counts_cells_not_classes() -> None:
    assert float(pooled_recall(ABSENT, (0, 1))) == pytest.approx(11 / 14)
    assert float(pooled_recall(ABSENT, (1,))) == 0.75
    assert np.isnan(pooled_recall(ABSENT, (2,)))
    assert np.isnan(pooled_recall(ABSENT, ()))


def test_a_draw_without_a_cell_of_the_pooled_classes_keeps_the_rate_that_was_observed() -> None:
    observed = np.array([[8, 0, 0], [0, 1, 0], [1, 0, 2]])  # of classes 1 and 2, 3 of 4 cells are right
    draws = np.array([[[9, 0, 0], [0, 0, 0], [0, 0, 0]], [[9, 0, 0], [0, 0, 0], [1, 0, 1]]])
    assert pooled_recall(draws, (1, 2), observed).tolist() == [0.75, 0.5]
    assert np.isnan(pooled_recall(draws, (1, 2))[0])
    assert np.isnan(pooled_recall(draws, (), observed)).all()


PREDICTIONS = st.lists(st.tuples(st.integers(0, CLASSES - 1), st.integers(0, CLASSES - 1)), max_size=30)


@settings(deadline=None, max_examples=60)
@given(st.lists(PREDICTIONS, min_size=1, max_size=4))
def test_summed_confusions_are_the_confusion_of_pooled_predictions(clinics: list[list[tuple[int, int]]]) -> None:
    parts = [np.array(clinic, dtype=np.int64).reshape(-1, 2) for clinic in clinics]
    pooled = np.concatenate(parts)
    total = sum(confusion_matrix(part[:, 0], part[:, 1], CLASSES) for part in parts)
    slow = np.zeros((CLASSES, CLASSES), dtype=np.int64)
    for row, column in pooled:
        slow[row, column] += 1
    assert np.array_equal(total, slow)
    assert np.array_equal(confusion_matrix(pooled[:, 0], pooled[:, 1], CLASSES), slow)
    assert float(macro_f1(total)) == pytest.approx(float(macro_f1(slow)), nan_ok=True)


@settings(deadline=None, max_examples=60)
@given(hnp.arrays(np.int64, (3, 3), elements=st.integers(0, 20)))
def test_every_rate_is_between_0_and_1_or_undefined(confusion: np.ndarray) -> None:
    rates = [macro_f1(confusion), accuracy(confusion), balanced_accuracy(confusion), *f1(confusion), *recall(confusion)]
    assert all(np.isnan(rate) or 0 <= rate <= 1 for rate in rates)
    assert np.isnan(macro_f1(confusion)) == (confusion.sum() == 0)


def test_bootstrap_draws_equal_a_loop_that_really_repeats_the_cells() -> None:
    true, predicted = cells(0, number=30)
    groups = np.random.default_rng(1).integers(0, 6, len(true))
    weights = draw_group_weights(6, 5, np.random.default_rng(2))
    found = bootstrap_confusions(true, predicted, groups, num_classes=CLASSES, weights=weights)
    for replicate, drawn in enumerate(weights):
        rows = [
            cell for group, times in enumerate(drawn) for _ in range(times) for cell in np.flatnonzero(groups == group)
        ]
        expected = metrics.confusion_matrix(true[rows], predicted[rows], labels=range(CLASSES))
        assert np.array_equal(found[replicate], expected)


def test_each_draw_draws_as_many_groups_as_there_are() -> None:
    weights = draw_group_weights(7, 200, np.random.default_rng(0))
    assert weights.shape == (200, 7)
    assert (weights.sum(axis=1) == 7).all()
    # Each group is drawn once on average; 200 draws of variance 6/7 each leave a deviation of 0.065.
    assert np.abs(weights.mean(axis=0) - 1).max() < 0.3
    assert draw_group_weights(0, 3, np.random.default_rng(0)).shape == (3, 0)


def test_no_cell_gives_empty_counts_with_and_without_draws() -> None:
    none = np.array([], dtype=np.int64)
    weights = draw_group_weights(0, 2, np.random.default_rng(0))
    assert confusion_matrix(none, none, 3).sum() == 0
    assert bootstrap_confusions(none, none, none, num_classes=3, weights=weights).shape == (2, 3, 3)


@pytest.mark.parametrize(
    ("counts", "rare"),
    [
        # 1 % of 100 000 is 1000: 999 is rare, 1000 is not; a class that training never saw is not rare but missing.
        ([97_001, 999, 1000, 1000, 0], (1,)),
        # Few cells in all: 199 is under 200 although it is 20 %.
        ([801, 199], (1,)),
        ([800, 200], ()),
        ([0, 0], ()),
    ],
)
def test_a_rare_class_was_seen_but_in_few_cells(counts: list[int], rare: tuple[int, ...]) -> None:
    assert rare_classes(np.array(counts, dtype=np.float64)) == rare


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        # 8 of 10, z² = 3.8415: centre (0.8 + 0.19207)/1.38415 = 0.71674, half 0.22658.
        (8, 10, 0.4902, 0.9433),
        # 0 of n: z²/(n + z²) above; mirrored for n of n.
        (0, 10, 0.0, 3.8415 / 13.8415),
        (10, 10, 10 / 13.8415, 1.0),
        (50, 100, 0.4038, 0.5962),
    ],
)
def test_wilsons_interval_of_numbers_worked_by_hand(successes: int, trials: int, low: float, high: float) -> None:
    found = wilson_interval(successes, trials)
    assert found.value == successes / trials
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_an_interval_without_trials_or_replicates_is_not_defined() -> None:
    assert np.isnan([wilson_interval(0, 0).value, wilson_interval(0, 0).low, wilson_interval(0, 0).high]).all()
    empty = percentile_interval(0.5, np.array([np.nan]))
    assert empty.value == 0.5
    assert np.isnan([empty.low, empty.high]).all()


def test_a_percentile_interval_leaves_undefined_replicates_out() -> None:
    found = percentile_interval(0.7, np.array([*np.arange(101) / 100, np.nan]))
    assert (found.value, found.low, found.high) == pytest.approx((0.7, 0.025, 0.975))


def test_a_class_that_a_draw_misses_keeps_its_observed_rate() -> None:
    observed = np.array([[8, 0], [1, 0]])  # the one cell of the second class is called the first
    without = np.array([[9, 0], [0, 0]])  # a draw without it
    assert macro_f1(observed) == pytest.approx((16 / 17 + 0) / 2)
    assert macro_f1(without[None], observed)[0] == pytest.approx((1 + 0) / 2)
    assert balanced_accuracy(without[None], observed)[0] == pytest.approx(0.5)
    assert macro_f1(without[None])[0] == 1.0  # what leaving the class out would say


def test_draws_that_hold_every_class_need_nothing_kept() -> None:
    draws = np.array([[[3, 1], [2, 2]], [[4, 0], [1, 3]]])
    observed = np.array([[1, 3], [3, 1]])
    assert np.array_equal(macro_f1(draws, observed), macro_f1(draws))
    assert np.array_equal(balanced_accuracy(draws, observed), balanced_accuracy(draws))
