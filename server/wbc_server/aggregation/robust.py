"""Order statistics in place of the weighted mean: trimmed mean and Krum, for studies that fear a hostile clinic.

They look at every single update, so they are not additive: no secure sum can compute them, and all updates of a round
are in memory at once. They also discard what one clinic alone knows: a clinic that is the only one with a rare class or
another stain is an outlier to them. The norm bound and the weight cap of the default rule have neither fault. Clinics'
weights do not enter; every clinic counts the same.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from flwr.serverapp.strategy.fedtrimmedavg import trim_mean
from numpy.typing import NDArray

from wbc_common.study import AggregationSettings
from wbc_server.aggregation.sums import SumsInFile
from wbc_server.aggregation.weighted_sum import WeightedSum
from wbc_server.aggregation.weights import Float64s


class Aggregate(Protocol):
    """Takes updates one at a time, in clinic order, and gives the change of the model."""

    def add(self, delta: Mapping[str, np.ndarray], backbone_weight: float, head_weight: Float64s) -> None:
        """Take one clinic's update."""

    def mean(self) -> Mapping[str, Float64s]:
        """The change, float64; empty when nothing was added."""


class OrderStatistic:
    """Keeps the updates of a round and takes their trimmed mean by coordinate, or the one that Krum selects."""

    def __init__(self, settings: AggregationSettings) -> None:
        self._settings = settings
        self._updates: list[Mapping[str, np.ndarray]] = []

    def add(self, delta: Mapping[str, np.ndarray], backbone_weight: float, head_weight: Float64s) -> None:
        """Keep an update; its weights are not used."""
        self._updates.append({key: value for key, value in delta.items() if value.dtype.kind == "f"})

    def mean(self) -> dict[str, Float64s]:
        """The change by the study's order statistic."""
        if not self._updates:
            return {}
        if self._settings.robust == "krum":
            chosen = self._updates[krum_choice(self._updates, self._settings.krum_malicious)]
            return {key: value.astype(np.float64) for key, value in chosen.items()}
        return {key: self._trimmed(key) for key in self._updates[0]}

    def _trimmed(self, key: str) -> Float64s:
        stacked = np.stack([update[key] for update in self._updates]).astype(np.float64)  # [K, ...]
        trimmed: Float64s = np.asarray(trim_mean(stacked, self._settings.trim_fraction))
        return trimmed


def aggregate_of(settings: AggregationSettings, folder: Path | None = None) -> Aggregate:
    """An empty aggregate of the study's kind.

    Args:
        folder: where sums lie and no update waits, as memory counts; None where it is no matter.
    """
    if settings.robust != "none":
        return OrderStatistic(settings)
    return WeightedSum() if folder is None else WeightedSum(at_once=1, sums=SumsInFile(folder))


def too_few(settings: AggregationSettings, updates: int) -> str | None:
    """Why so few updates leave the study's order statistic without what it is for; None where they do not.

    A plan has clinics enough (`wbc_common.settings.rules`); clinics that are missing or refused change that.
    """
    if settings.robust == "trimmed-mean" and int(settings.trim_fraction * updates) == 0:
        return (
            f"a trimmed mean of {updates} updates cuts off none at aggregation.trim_fraction = {settings.trim_fraction}"
        )
    needed = 2 * settings.krum_malicious + 3
    if settings.robust == "krum" and updates < needed:
        return f"Krum against {settings.krum_malicious} malicious clinics needs {needed} updates, {updates} count"
    return None


def krum_choice(updates: list[Mapping[str, np.ndarray]], num_malicious: int) -> int:
    """The update closest to its K − f − 2 nearest others (Blanchard et al., NeurIPS 2017), or the first of equals.

    With fewer than f + 3 updates one neighbour is looked at.
    """
    distances = _squared_distances(updates)  # [K, K]
    num_near = min(max(1, len(updates) - num_malicious - 2), len(updates) - 1)
    scores = np.sort(distances, axis=1)[:, 1 : num_near + 1].sum(axis=1)
    return int(scores.argmin())


def _squared_distances(updates: list[Mapping[str, np.ndarray]]) -> NDArray[np.float64]:
    distances = np.zeros((len(updates), len(updates)))
    for one in range(len(updates)):
        for other in range(one):
            differences = (updates[one][key].astype(np.float64) - updates[other][key] for key in updates[one])
            distances[one, other] = distances[other, one] = sum(float((part**2).sum()) for part in differences)
    return distances
