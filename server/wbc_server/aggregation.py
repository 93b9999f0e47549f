"""Class-count-aware FedAvg (docs/method.md §2): pure functions for the weights, one streaming sum for the updates.

Everything is a ratio of sums, so partial sums of disjoint clinics merge and one update is in memory at a time. Sums are
float64. They depend on the order of adding by rounding alone: the caller adds in sorted clinic order, which makes a
study's bits reproducible.

Two consequences of the formulas, on purpose. A class that no clinic holds (N_c = 0) has weight 0 everywhere, so its
head row keeps its value, where plain FedAvg would push it away further each round. The cap on a clinic's share needs
all clinics' counts and is not invariant to splitting a clinic in two: it guards against one heavy clinic, not against
a clinic that enrols under two names.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wbc_common.models import is_head
from wbc_common.study import AggregationSettings
from wbc_server.pieces import PIECE, Piece, sweep

Float64s = NDArray[np.float64]

_MAX_LIFT = 10.0  # docs/method.md §2: the bound on a_c


@dataclass(frozen=True)
class Weights:
    """Each clinic's weight for the backbone, float64 [K], and for each head row, float64 [K, C]."""

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


def plan_weights(counts: Float64s, settings: AggregationSettings) -> Weights:
    """The weights of one round's training clinics by the study's rule, capped.

    Args:
        counts: class counts of the clinics whose updates count in this round, float64 [K, C].
        settings: the study's `[aggregation]`.
    """
    if settings.rule == "uniform":
        weights = Weights(np.ones(len(counts)), np.ones_like(counts))
    elif settings.rule == "fedavg":
        weights = fedavg_weights(counts)
    else:
        weights = Weights(backbone_weights(counts, settings.alpha), head_weights(counts, settings.head_smoothing))
    return Weights(cap_shares(weights.backbone, settings.max_share), cap_shares(weights.head, settings.max_share))


class WeightedSum:
    """Σ_k u_k·Δθ_k, Σ_k v_{k,c}·ΔW_{k,c} and the sums of their weights, one update at a time.

    Holds one float64 model, and one piece in float64 for each thread. Integer buffers are not summed. Updates have
    passed `wbc_server.gate`. Each element is converted, multiplied and added by itself in the order of the calls: the
    bits are those of `sum += weight * value.astype(float64)`, whatever the pieces and the threads.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Float64s] = {}
        self._backbone_weight = 0.0
        self._head_weight: Float64s = np.zeros(())  # [C] from the first update on
        self._scratch: dict[int, Float64s] = {}  # by thread, float64 [PIECE]

    def add(self, delta: Mapping[str, np.ndarray], backbone_weight: float, head_weight: Float64s) -> None:
        """Add one clinic's update.

        Args:
            delta: change of each array by its name, float32.
            backbone_weight: u_k.
            head_weight: v_{k,c}, float64 [C].
        """
        floats = {key: value for key, value in delta.items() if value.dtype.kind == "f"}
        for key in filter(is_head, floats):
            _add_rows(self._sum(key, floats[key]), floats[key], head_weight)
        self._add_backbone({key: value for key, value in floats.items() if not is_head(key)}, backbone_weight)
        self._add_weights(backbone_weight, head_weight)

    def merge(self, other: "WeightedSum") -> None:
        """Add another sum, over other clinics."""
        for key, value in other._sums.items():
            self._sum(key, value)[...] += value
        self._add_weights(other._backbone_weight, other._head_weight)

    def mean(self) -> Mapping[str, Float64s]:
        """The weighted mean change, float64; 0 where the weights sum to 0, and empty when nothing was added.

        Each array is divided as it is looked up, so that no second float64 model arises; what is added later counts.
        """
        return _Mean(self._sums, self._weight_of)

    def _weight_of(self, key: str) -> Float64s | np.float64:
        return self._head_weight if is_head(key) else np.float64(self._backbone_weight)

    def _add_backbone(self, backbone: Mapping[str, np.ndarray], weight: float) -> None:
        """Add arrays that have one weight, piece by piece on all threads."""
        totals = {key: self._sum(key, value).reshape(-1) for key, value in backbone.items()}
        values = {key: value.reshape(-1) for key, value in backbone.items()}

        def add_pieces(thread: int, pieces: Sequence[Piece]) -> None:
            if thread not in self._scratch:
                self._scratch[thread] = np.empty(PIECE)
            scratch = self._scratch[thread]
            for piece in pieces:
                _add_scaled(totals[piece.key][piece.part], values[piece.key][piece.part], weight, scratch)

        sweep(values, add_pieces)

    def _add_weights(self, backbone_weight: float, head_weight: Float64s) -> None:
        self._backbone_weight += float(backbone_weight)
        self._head_weight = self._head_weight + head_weight

    def _sum(self, key: str, value: np.ndarray) -> Float64s:
        """The sum under `key`, zeros at first. A shape that differs would broadcast, so it is our bug."""
        if key not in self._sums:
            self._sums[key] = np.zeros(value.shape)
        assert self._sums[key].shape == value.shape, f"{key}: {value.shape} added to {self._sums[key].shape}"
        return self._sums[key]


class _Mean(Mapping[str, Float64s]):
    """Sums over their weights, array by array."""

    def __init__(self, sums: Mapping[str, Float64s], weight_of: Callable[[str], Float64s | np.float64]) -> None:
        self._sums = sums
        self._weight_of = weight_of

    def __getitem__(self, key: str) -> Float64s:
        return _ratio(self._sums[key], self._weight_of(key))

    def __contains__(self, key: object) -> bool:
        return key in self._sums

    def __iter__(self) -> Iterator[str]:
        return iter(self._sums)

    def __len__(self) -> int:
        return len(self._sums)


def apply_step(
    model: Mapping[str, np.ndarray], mean_delta: Mapping[str, Float64s], step_size: float
) -> dict[str, np.ndarray]:
    """θ + η·mean change, each array in its own dtype; arrays without a change (integer buffers) stay as they are.

    Args:
        model: the global model that the clinics received.
        mean_delta: what `WeightedSum.mean` gives.
        step_size: η.
    """
    return {
        key: np.asarray(value + step_size * mean_delta[key], value.dtype) if key in mean_delta else value.copy()
        for key, value in model.items()
    }


def _add_rows(total: Float64s, value: np.ndarray, weight: Float64s) -> None:
    """total[c] += weight[c]·value[c] in float64, in place, for arrays of C rows."""
    assert len(weight) == len(value), f"{len(weight)} row weights for {len(value)} rows"
    for row, row_weight in enumerate(weight):
        total[row] += np.multiply(value[row], row_weight, dtype=np.float64)


def _add_scaled(total: Float64s, value: np.ndarray, weight: float, scratch: Float64s) -> None:
    """total += weight·value in float64, in place, through a buffer that is at least as long."""
    scaled = scratch[: len(value)]
    np.copyto(scaled, value)
    np.multiply(scaled, weight, out=scaled)
    np.add(total, scaled, out=total)


def _ratio(total: Float64s, weight: Float64s | np.float64) -> Float64s:
    """total/weight, 0 where the weight is 0; a weight [C] divides the rows."""
    if np.ndim(weight) == 0:
        return np.asarray(total / weight) if weight > 0 else np.zeros_like(total)
    divisor = np.reshape(weight, (-1,) + (1,) * (total.ndim - 1))  # [C, 1]
    mean: Float64s = np.divide(total, divisor, out=np.zeros_like(total), where=divisor > 0)
    return mean
