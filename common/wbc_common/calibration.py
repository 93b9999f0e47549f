"""Calibration, risk–coverage and conformal sets from counts that add over clinics (docs/method.md §5).

A clinic sorts its probabilities into fine bins whose edges everybody shares, even in the logit, so that small and large
probabilities keep their resolution. Bins add; the 15 equal-mass bins of the class-wise ECE are merged from the *summed*
fine bins, so that a federation's figure is that of its pooled cells up to the fine edges. NLL and Brier score are
summed at each temperature of a shared grid, so that one temperature can be fitted to the training clinics and no logit
leaves. Temperature scaling: Guo et al., ICML 2017; class-wise ECE: Kull et al., NeurIPS 2019; risk–coverage: Geifman
and El-Yaniv, NeurIPS 2017; conformal sets of probabilities above a threshold: Sadinle, Lei, Wasserman, JASA 2019.
"""

import math
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

# 160 bins, from odds of 1 : 160,000 on; 1.0 is a value of the grid, whose steps are 7 %.
EDGES: Floats = 1 / (1 + np.exp(-np.linspace(-12, 12, 159)))
NUM_BINS = len(EDGES) + 1
TEMPERATURES: Floats = np.exp(np.linspace(-math.log(8), math.log(8), 61))
ONE = len(TEMPERATURES) // 2  # the place of temperature 1
EQUAL_MASS_BINS = 15


@dataclass(frozen=True)
class CalibrationCounts:
    """Sums over cells with an exact label. Axis T: at temperature 1, and at the one that was asked for.

    Args:
        nll, brier: float64 [J], Σ −log p_y and Σ_c (p_c − [c = y])² at each of TEMPERATURES.
        cells: int64 [T, C, F], cells whose probability of class c is in fine bin f.
        positives: int64 [T, C, F], those of them that are of class c.
        mass: float64 [T, C, F], the sum of those probabilities.
        confidence: int64 [T, F], cells whose largest probability is in bin f.
        correct: int64 [T, F], those of them that are named correctly.
    """

    nll: Floats
    brier: Floats
    cells: Counts
    positives: Counts
    mass: Floats
    confidence: Counts
    correct: Counts

    def __add__(self, other: "CalibrationCounts") -> "CalibrationCounts":
        return CalibrationCounts(*(getattr(self, part.name) + getattr(other, part.name) for part in fields(self)))

    @property
    def num_cells(self) -> int:
        """Cells behind the sums."""
        return int(self.confidence[0].sum())


def fine_bin(probabilities: Floats) -> Counts:
    """The fine bin of each probability, int64 of the same shape; bin f begins at EDGES[f − 1]."""
    return np.digitize(probabilities, EDGES).astype(np.int64)


def fit_temperature(nll: Floats) -> int:
    """The place in TEMPERATURES with the least NLL, sums float64 [J]."""
    return int(nll.argmin())


def equal_mass_groups(cells: Counts) -> Counts:
    """Which of the 15 bins each fine bin [F] goes to, by the rank of its middle cell; int64 [F], ascending."""
    middle = cells.cumsum() - cells / 2
    return np.minimum(middle * EQUAL_MASS_BINS // max(1, int(cells.sum())), EQUAL_MASS_BINS - 1).astype(np.int64)


def classwise_ece(cells: Counts, positives: Counts, mass: Floats) -> float:
    """Mean over classes of Σ_b |Σ p − positives| / N in 15 equal-mass bins; each [C, F]. NaN without cells.

    All classes count, as in Kull et al.: probability given to a class that is not there is miscalibrated too.
    """
    total = cells[0].sum()
    if total == 0:
        return math.nan
    gaps = [
        np.abs(np.bincount(equal_mass_groups(number), weights=probability - positive)).sum() / total
        for number, positive, probability in zip(cells, positives, mass, strict=True)
    ]
    return float(np.mean(gaps))


def aurc(confidence: Counts, correct: Counts) -> float:
    """Area under the risk–coverage curve: the mean, over cells by falling confidence, of the error among those before.

    Cells [F] of one fine bin have no order; their errors are spread evenly. NaN without cells.
    """
    number, errors = confidence[::-1].astype(float), (confidence - correct)[::-1].astype(float)
    if number.sum() == 0:
        return math.nan
    before, errors_before = number.cumsum() - number, errors.cumsum() - errors
    risks = [
        (start_errors + np.arange(1, size + 1) * wrong / size) / (start + np.arange(1, size + 1))
        for size, wrong, start, start_errors in zip(number, errors, before, errors_before, strict=True)
        if size > 0
    ]
    return float(np.concatenate(risks).mean())


def conformal_bin(true_class: Counts, coverage: float) -> int:
    """The fine bin from which on a class enters the prediction set, so that ⌈(n + 1)·coverage⌉ of n cells are covered.

    Args:
        true_class: int64 [F], calibration cells by the bin of their true class's probability.
        coverage: aimed at, in 0..1; holds for cells exchangeable with these, which those of another clinic are not.
    """
    needed = math.ceil((true_class.sum() + 1) * coverage)
    covered = true_class[::-1].cumsum()[::-1]  # cells in bin f or above
    return int(np.flatnonzero(covered >= needed).max(initial=0))
