"""Calibration, risk–coverage and conformal sets from counts in bins, against slow computations from single cells."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wbc_common.calibration import (
    EDGES,
    NUM_BINS,
    ONE,
    TEMPERATURES,
    aurc,
    classwise_ece,
    conformal_bin,
    equal_mass_groups,
    fine_bin,
    fit_temperature,
)


def histogram(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    return np.bincount(fine_bin(values), weights, minlength=NUM_BINS)


def bins_of(shares: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    columns = range(shares.shape[1])
    cells = np.stack([histogram(shares[:, c]) for c in columns])
    positives = np.stack([histogram(shares[labels == c, c]) for c in columns])
    return cells, positives, np.stack([histogram(shares[:, c], shares[:, c]) for c in columns])


def some_shares(number: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    logits = 3 * generator.normal(size=(number, 3))
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return shares, generator.integers(0, 3, size=number)


def test_temperature_one_is_a_value_of_the_grid() -> None:
    assert TEMPERATURES[ONE] == 1
    assert TEMPERATURES[[0, -1]].tolist() == pytest.approx([1 / 8, 8])


def test_a_bin_begins_at_its_edge_and_the_ends_hold_the_rest() -> None:
    assert fine_bin(np.array([0.0, EDGES[0], 0.5, 1.0])).tolist() == [0, 1, 80, NUM_BINS - 1]


def test_the_temperature_with_the_least_summed_nll_is_fitted() -> None:
    assert fit_temperature(np.array([3.0, 1.0, 2.0])) == 1


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 50))
def test_groups_ascend_and_no_group_of_several_bins_holds_much_more_than_a_fifteenth(seed: int, most: int) -> None:
    counts = np.random.default_rng(seed).integers(0, most, size=NUM_BINS)
    groups = equal_mass_groups(counts)
    assert (np.diff(groups) >= 0).all()
    assert set(groups) <= set(range(15))
    for group in set(groups):
        inside = counts[groups == group]
        assert inside.sum() <= counts.sum() / 15 + inside.max(initial=0)


def test_the_ece_of_cells_each_in_a_bin_of_its_own_is_that_of_equal_mass_bins() -> None:
    """30 cells of one class in 30 fine bins: 15 groups of two, formed from the cells themselves by a plain loop."""
    edges = np.concatenate([[0.0], EDGES])
    shares = edges[40:130:3] + 1e-9
    hits = np.random.default_rng(1).random(30) < shares
    cells, positives, mass = (
        np.zeros((1, NUM_BINS)) + histogram(*part) for part in ((shares,), (shares[hits],), (shares, shares))
    )
    pairs = [(shares[place : place + 2], hits[place : place + 2]) for place in range(0, 30, 2)]
    expected = sum(abs(share.sum() - hit.sum()) for share, hit in pairs) / 30
    found = classwise_ece(cells.astype(int), positives.astype(int), mass)
    assert found == pytest.approx(expected)


def test_probabilities_that_hold_exactly_have_no_error_and_certain_wrong_ones_the_largest() -> None:
    shares = np.repeat([[0.5, 0.5]], 10, axis=0)
    labels = np.arange(10) % 2
    assert classwise_ece(*bins_of(shares, labels)) == pytest.approx(0)
    certain = np.repeat([[1.0, 0.0]], 10, axis=0)
    assert classwise_ece(*bins_of(certain, np.ones(10, dtype=int))) == pytest.approx(1)


def test_bins_of_two_clinics_added_give_the_figures_of_their_pooled_cells() -> None:
    shares, labels = some_shares(400)
    parts = [bins_of(shares[part], labels[part]) for part in (slice(0, 130), slice(130, 400))]
    added = tuple(one + other for one, other in zip(*parts, strict=True))
    assert classwise_ece(*added) == pytest.approx(classwise_ece(*bins_of(shares, labels)))


def test_the_area_is_that_of_a_slow_walk_down_the_confidence() -> None:
    shares, labels = some_shares(60, seed=2)
    confidence, right = shares.max(axis=1), shares.argmax(axis=1) == labels
    places = fine_bin(confidence)
    assert len(set(places)) < 60  # some share a bin, and are taken in an average order there
    risks: list[float] = []
    seen, errors = 0, 0.0
    for place in sorted(set(places), reverse=True):
        inside = places == place
        share_wrong = float((~right[inside]).mean())
        for _ in range(int(inside.sum())):
            seen, errors = seen + 1, errors + share_wrong
            risks.append(errors / seen)
    assert aurc(histogram(confidence), histogram(confidence[right])) == pytest.approx(np.mean(risks))


def test_errors_that_are_the_least_confident_cost_less_than_the_same_errors_at_the_top() -> None:
    number = np.zeros(NUM_BINS, dtype=int)
    number[[40, 120]] = 2
    good, bad = number.copy(), number.copy()
    good[40], bad[120] = 0, 0
    assert aurc(number, good) == pytest.approx((0 + 0 + 1 / 3 + 2 / 4) / 4)
    assert aurc(number, bad) == pytest.approx((1 + 1 + 2 / 3 + 2 / 4) / 4)


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9])
def test_the_conformal_threshold_is_the_split_conformal_quantile_down_to_its_bin(coverage: float) -> None:
    shares = np.random.default_rng(3).beta(3, 1, size=200)
    place = conformal_bin(histogram(shares), coverage)
    quantile = np.sort(shares)[::-1][math.ceil(201 * coverage) - 1]  # the ⌈(n + 1)·coverage⌉-th largest
    assert EDGES[place - 1] <= quantile < EDGES[place]


def test_too_few_cells_for_the_coverage_let_every_class_in() -> None:
    assert conformal_bin(histogram(np.array([0.9, 0.9])), 0.9) == 0


def test_without_cells_figures_are_not_defined() -> None:
    none = np.zeros(NUM_BINS, dtype=int)
    assert math.isnan(aurc(none, none))
    assert math.isnan(classwise_ece(none[None], none[None], none[None].astype(float)))
