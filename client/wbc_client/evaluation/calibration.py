"""Calibration on site: probabilities become counts in shared bins, and a case mix is estimated without its labels.

What leaves are `CalibrationCounts` and a confusion matrix. The prior-shift correction (Saerens, Latinne, Decaestecker,
Neural Computation 2002) needs every cell's posterior, so it runs here; it looks at no label.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wbc_common.calibration import NUM_BINS, TEMPERATURES, CalibrationCounts, fine_bin

_EM_STEPS = 500
_EM_TOLERANCE = 1e-6
_SMALLEST_PRIOR = 1e-12


def count_calibration(logits: Tensor, labels: Tensor, temperature: float) -> CalibrationCounts:
    """The counts of cells with exact labels, at temperature 1 and at `temperature`.

    Args:
        logits: float [N, C].
        labels: int64 [N], classes.
    """
    scores = logits.double()
    true = torch.nn.functional.one_hot(labels, scores.shape[1]).double()
    nll, brier = zip(*(_scores(scores / float(value), true) for value in TEMPERATURES), strict=True)
    bins = [_bins(scores / value, labels) for value in (1.0, temperature)]
    return CalibrationCounts(np.array(nll), np.array(brier), *(np.stack(parts) for parts in zip(*bins, strict=True)))


def _scores(logits: Tensor, true: Tensor) -> tuple[float, float]:
    log_shares = logits.log_softmax(dim=1)
    return float(-(log_shares * true).sum()), float((log_shares.exp() - true).square().sum())


def _bins(logits: Tensor, labels: Tensor) -> tuple[np.ndarray, ...]:
    """cells, positives, mass [C, F], confidence, correct [F] at one temperature."""
    shares = logits.softmax(dim=1).numpy()
    num_classes = shares.shape[1]
    places = fine_bin(shares) + NUM_BINS * np.arange(num_classes)  # [N, C], bins of all classes in one row
    true = np.arange(num_classes) == labels.numpy()[:, None]
    table = (num_classes, NUM_BINS)

    def histogram(chosen: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        return np.bincount(chosen.ravel(), weights, minlength=num_classes * NUM_BINS).reshape(table)

    confidence = fine_bin(shares.max(axis=1, initial=0))
    right = logits.argmax(dim=1).eq(labels).numpy()
    return (
        histogram(places),
        histogram(places[true]),
        histogram(places, shares.ravel()),
        np.bincount(confidence, minlength=NUM_BINS),
        np.bincount(confidence[right], minlength=NUM_BINS),
    )


def estimate_prior(posteriors: NDArray[np.float64], source_prior: NDArray[np.float64]) -> NDArray[np.float64]:
    """The case mix [C] of unlabelled cells by expectation–maximisation, from posteriors [N, C] under a prior [C]."""
    prior = source_prior.copy()
    for _ in range(_EM_STEPS):
        step = _under(posteriors, prior / source_prior).mean(axis=0)
        done = float(np.abs(step - prior).max()) < _EM_TOLERANCE
        prior = np.maximum(step, _SMALLEST_PRIOR)
        if done:
            break
    return prior


def correct_prior_shift(logits: Tensor, source_prior: NDArray[np.float64]) -> Tensor:
    """Predicted classes int64 [N] under the case mix that the cells themselves suggest."""
    posteriors = logits.double().softmax(dim=1).numpy()
    if len(posteriors) == 0:
        return torch.zeros(0, dtype=torch.int64)
    source = np.maximum(source_prior, _SMALLEST_PRIOR)
    prior = estimate_prior(posteriors, source)
    return torch.from_numpy(_under(posteriors, prior / source).argmax(axis=1))


def _under(posteriors: NDArray[np.float64], ratio: NDArray[np.float64]) -> NDArray[np.float64]:
    """Posteriors [N, C] under another prior, whose ratio to the old one is given [C]."""
    weighted = posteriors * ratio
    shares: NDArray[np.float64] = weighted / weighted.sum(axis=1, keepdims=True)
    return shares
