"""Class-count-aware FedAvg (docs/method.md §2): pure functions for the weights and for the step that follows.

Everything is a ratio of sums (`wbc_server.aggregation.weighted_sum`), which add over clinics.

Two consequences of the formulas, on purpose. A class that no clinic holds (N_c = 0) has weight 0 everywhere, so its
head row keeps its value, where plain FedAvg would push it away further each round. The cap on a clinic's share needs
all clinics' counts and is not invariant to splitting a clinic in two: it guards against one heavy clinic, not against
a clinic that enrols under two names.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wbc_common.head_rows import HeadRows
from wbc_common.study import AggregationSettings
from wbc_server.aggregation.pieces import PIECE

Float64s = NDArray[np.float64]

_MAX_LIFT = 10.0  # docs/method.md §2: the bound on a_c


@dataclass(frozen=True)
class Weights:
    """Each clinic's weight for the backbone, float64 [K], and for the head: of each class [K, C] or row [K, R]."""

    backbone: Float64s
    head: Float64s


def backbone_weights(counts: Float64s, alpha: float) -> Float64s:
    """u_k = Σ_c a_c·n_{k,c} [K], with a_c = min((N̄/N_c)^α, 10) and 0 where N_c = 0 (docs/method.md §2).

    Args:
        counts: class counts n_{k,c}, cells, float64 [K, C]; a coarse label counts fractionally.
        alpha: 0 weighs clinics by their cells; 1 gives each class present the same total weight, up to the bound.
    """
    per_class = counts.sum(axis=0)  # [C]
    present = per_class > 0
    lift = np.zeros_like(per_class)
    if present.any():
        lift[present] = np.minimum((per_class[present].mean() / per_class[present]) ** alpha, _MAX_LIFT)
    weights: Float64s = counts @ lift
    return weights


def head_weights(counts: Float64s, head_smoothing: float) -> Float64s:
    """v_{k,c} = n_{k,c} + λ·n_k·N_c/N [K, C] (docs/method.md §2).

    Args:
        counts: class counts n_{k,c}, cells, float64 [K, C].
        head_smoothing: λ; 0 weighs a row by the clinic's cells of its class, a large λ by all its cells.
    """
    total = counts.sum()
    if total == 0:
        return np.zeros_like(counts)
    smoothed: Float64s = counts + head_smoothing * np.outer(counts.sum(axis=1), counts.sum(axis=0) / total)
    return smoothed


def fedavg_weights(counts: Float64s) -> Weights:
    """McMahan et al. 2017: u_k = v_{k,c} = n_k, from class counts float64 [K, C]."""
    per_clinic = counts.sum(axis=1)  # [K]
    return Weights(per_clinic, np.repeat(per_clinic[:, None], counts.shape[1], axis=1))


def cap_shares(weights: Float64s, max_share: float) -> Float64s:
    """Lower the largest weights until no clinic holds more than `max_share` of the sum.

    Heavy clinics get one common weight; the others keep theirs, so their ratios stay. With too few clinics of positive
    weight for the cap to hold (fewer than 1/max_share), those clinics weigh the same and each holds more than the cap.
    A clinic of weight 0 stays at 0: it has nothing to say about that row, and a class's only holder decides it alone.

    Args:
        weights: non-negative, float64 [K], or [K, C], where each column is capped by itself.
        max_share: in (0, 1]; 1 changes nothing.
    """
    if weights.ndim == 1:
        return np.minimum(weights, _ceiling(weights, max_share))
    return np.stack([cap_shares(column, max_share) for column in weights.T], axis=1)


def _ceiling(weights: Float64s, max_share: float) -> float:
    """The t with t = max_share·Σ min(w, t): with the j heaviest lowered to t, t·(1 − j·max_share) = max_share·rest."""
    positive = np.sort(weights[weights > 0])[::-1]
    rest = np.cumsum(positive[::-1])[::-1]  # rest[j]: the sum without the j heaviest
    for lowered, weight in enumerate(positive):
        room = 1 - lowered * max_share
        if room <= 0:  # by rounding only: those lowered so far hold all of the sum
            return float(positive[lowered - 1])
        ceiling = float(max_share * rest[lowered] / room)
        if weight <= ceiling:
            return ceiling
    return float(positive.min(initial=np.inf))  # cannot hold


def plan_weights(counts: Float64s, settings: AggregationSettings, rows: HeadRows | None = None) -> Weights:
    """The weights of one round's training clinics by the study's rule, capped.

    Args:
        counts: class counts of the clinics whose updates count in this round, float64 [K, C].
        settings: the study's `[aggregation]`.
        rows: of the head, each weighed as its class, and 0 where it belongs to none; None for a row a class.
    """
    if settings.rule == "uniform":
        weights = Weights(np.ones(len(counts)), np.ones_like(counts))
    elif settings.rule == "fedavg":
        weights = fedavg_weights(counts)
    else:
        weights = Weights(backbone_weights(counts, settings.alpha), head_weights(counts, settings.head_smoothing))
    head = cap_shares(weights.head, settings.max_share)
    return Weights(cap_shares(weights.backbone, settings.max_share), head if rows is None else rows.repeated(head))


def backbone_shares(counts: Float64s, settings: AggregationSettings) -> Float64s:
    """Each clinic's share of the backbone's weight [K], from class counts [K, C]; equal under an order statistic."""
    if settings.robust != "none":
        return np.full(len(counts), 1 / len(counts))
    weights = plan_weights(counts, settings).backbone
    shares: Float64s = weights / weights.sum() if weights.any() else weights
    return shares


def apply_step(
    model: Mapping[str, np.ndarray], mean_delta: Mapping[str, Float64s], step_size: float
) -> dict[str, np.ndarray]:
    """θ + η·mean change, each array in its own dtype; arrays without a change (integer buffers) stay as they are.

    Args:
        model: the global model that the clinics received.
        mean_delta: what `wbc_server.aggregation.weighted_sum` gives.
        step_size: η.
    """
    return {
        key: _stepped(value, mean_delta[key], step_size) if key in mean_delta else value.copy()
        for key, value in model.items()
    }


def _stepped(value: np.ndarray, change: Float64s, step_size: float) -> np.ndarray:
    """value + η·change in the dtype of `value`, piece by piece, so that no float64 copy of a large array arises."""
    stepped, before, by = np.empty(value.size, value.dtype), value.reshape(-1), change.reshape(-1)
    for start in range(0, value.size, PIECE):
        part = slice(start, start + PIECE)
        stepped[part] = before[part] + step_size * by[part]
    return stepped.reshape(value.shape)
