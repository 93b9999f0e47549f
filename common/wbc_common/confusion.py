"""Counts that add, and the rates derived from them at the very end (docs/method.md §5).

A confusion matrix [C, C] holds cells, rows true, columns predicted. Matrices of clinics, splits or bootstrap draws
add; every rate below is a function of such a matrix and broadcasts over leading axes [..., C, C]. F1 counts classes
with support in that matrix only: libraries differ here (0.588 against 0.630 on the same predictions), so the rule is
ours and stated.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Rates = NDArray[np.float64]

RARE_SHARE = 0.01
RARE_CELLS = 200


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % interval; NaN where it is not defined."""

    value: float
    low: float
    high: float


def confusion_matrix(true: Counts, predicted: Counts, num_classes: int) -> Counts:
    """Counts [C, C] of class indices [N], [N]."""
    pairs = true * num_classes + predicted
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes).astype(np.int64)


def bootstrap_confusions(
    true: Counts, predicted: Counts, groups: Counts, *, num_classes: int, weights: Counts
) -> Counts:
    """Confusion matrices [R, C, C] of cluster-bootstrap draws.

    Args:
        true, predicted, groups: [N]; `groups` numbers patients, slides or fields from 0.
        weights: how often each group is drawn in each replicate, int [R, G].
    """
    cells = weights[:, groups]  # [R, N]
    pairs = true * num_classes + predicted
    table = np.zeros((len(weights), num_classes**2), dtype=np.int64)
    for pair in np.unique(pairs):
        table[:, pair] = cells[:, pairs == pair].sum(axis=1)
    return table.reshape(-1, num_classes, num_classes)


def draw_group_weights(num_groups: int, replicates: int, generator: np.random.Generator) -> Counts:
    """Multinomial draws [R, G] of `num_groups` groups with replacement (the ordinary bootstrap); G may be 0."""
    if num_groups == 0:
        return np.zeros((replicates, 0), dtype=np.int64)
    return generator.multinomial(num_groups, np.full(num_groups, 1 / num_groups), size=replicates).astype(np.int64)


def support(confusion: Counts) -> Counts:
    """Cells per true class [..., C]."""
    cells: Counts = confusion.sum(axis=-1)
    return cells


def recall(confusion: Counts) -> Rates:
    """Recall per class [..., C]; NaN where a class has no cell."""
    return _divide(_diagonal(confusion), support(confusion))


def f1(confusion: Counts) -> Rates:
    """F1_c = 2TP/(2TP+FP+FN) [..., C]; NaN where a class has no cell."""
    true_positive = _diagonal(confusion)
    denominator = support(confusion) + confusion.sum(axis=-2)
    return np.where(support(confusion) > 0, _divide(2 * true_positive, denominator), np.nan)


def macro_f1(confusion: Counts, observed: Counts | None = None, *, least_cells: int = 1) -> Rates:
    """Mean F1 over the classes with `least_cells` or more [...]; NaN where there is none.

    With `observed` [C, C], `confusion` holds bootstrap draws of it (see `_kept`), and it says how many cells there are.
    """
    rates = f1(confusion) if observed is None else _kept(f1(confusion), f1(observed))
    counted = support(confusion if observed is None else observed) >= least_cells
    return _mean_where_defined(np.where(counted, rates, np.nan))


def balanced_accuracy(confusion: Counts, observed: Counts | None = None) -> Rates:
    """Mean recall over the classes with support [...]; with `observed`, of bootstrap draws (see `_kept`)."""
    rates = recall(confusion)
    return _mean_where_defined(rates if observed is None else _kept(rates, recall(observed)))


def accuracy(confusion: Counts) -> Rates:
    """Share of cells that are right [...]."""
    return _divide(_diagonal(confusion).sum(axis=-1), confusion.sum(axis=(-2, -1)))


def pooled_recall(confusion: Counts, classes: tuple[int, ...], observed: Counts | None = None) -> Rates:
    """Recall over all cells of some classes together [...]: rare classes, or blasts.

    With `observed`, of bootstrap draws: one that has no cell of these classes keeps the rate of the cells that were
    drawn from, as in `_kept`. Left out, it would take its draw from a mean over clinics, too.
    """
    chosen = list(classes)
    rates = _divide(_diagonal(confusion)[..., chosen].sum(axis=-1), support(confusion)[..., chosen].sum(axis=-1))
    return rates if observed is None else _kept(rates, pooled_recall(observed, classes))


def rare_classes(training_counts: Rates) -> tuple[int, ...]:
    """Classes that training saw, but in less than 1 % of the cells or in fewer than 200 [C]."""
    total = training_counts.sum()
    rare = (training_counts > 0) & ((training_counts < RARE_SHARE * total) | (training_counts < RARE_CELLS))
    return tuple(int(index) for index in np.flatnonzero(rare))


def wilson_interval(successes: int, trials: int) -> Interval:
    """Wilson's 95 % interval of a proportion (Wilson 1927)."""
    if trials == 0:
        return Interval(float("nan"), float("nan"), float("nan"))
    z = 1.959963984540054
    share = successes / trials
    centre = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * np.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    # The share lies inside by algebra; rounding can miss it by one unit where all or none succeed.
    return Interval(share, float(max(0.0, min(share, centre - half))), float(min(1.0, max(share, centre + half))))


def draw_seeds(num_seeds: int, replicates: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Seeds drawn with replacement in each replicate, int64 [R, S]."""
    return generator.integers(0, num_seeds, size=(replicates, num_seeds))


def over_drawn_seeds(replicates: NDArray[np.float64], drawn: NDArray[np.int64]) -> NDArray[np.float64]:
    """Replicates [..., S, R] of each seed → [..., R], each the mean over its drawn seeds [R, S]."""
    means: NDArray[np.float64] = replicates[..., drawn, np.arange(len(drawn))[:, None]].mean(axis=-1)
    return means


def percentile_interval(value: float, replicates: Rates) -> Interval:
    """A figure with the 2.5 and 97.5 percentiles of its bootstrap replicates [R]."""
    defined = replicates[np.isfinite(replicates)]
    if len(defined) == 0:
        return Interval(float(value), float("nan"), float("nan"))
    low, high = np.percentile(defined, [2.5, 97.5])
    return Interval(float(value), float(low), float(high))


def _diagonal(confusion: Counts) -> Counts:
    return np.diagonal(confusion, axis1=-2, axis2=-1)


def _divide(numerator: Counts, denominator: Counts) -> Rates:
    undefined = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), np.nan)
    rates: Rates = np.divide(numerator, denominator, out=undefined, where=denominator != 0)
    return rates


def _kept(rates: Rates, observed: Rates) -> Rates:
    """Rates of draws [R, C], where a class that a draw misses keeps its rate [C] in the cells that were drawn from.

    Leaving it out would compare means over different classes: a draw without the one basophil that was missed would
    look better than the clinic, and the interval would lie above its own figure.
    """
    return np.where(np.isfinite(rates), rates, observed)


def _mean_where_defined(values: Rates) -> Rates:
    defined = np.isfinite(values)
    total = np.where(defined, values, 0.0).sum(axis=-1)
    count = defined.sum(axis=-1)
    undefined = np.full(total.shape, np.nan)
    means: Rates = np.divide(total, count, out=undefined, where=count > 0)
    return means
