"""The sums of class-count-aware FedAvg (docs/method.md §2) over a round's updates, as they come.

Sums are float64. They depend on the order of adding by rounding alone: the caller adds in sorted clinic order, which
makes a study's bits reproducible. A float64 sum is twice as long as an update, and to read and write it for every
update takes longer than to read the update: so a few updates wait and share one pass.
Where memory counts, no update waits, and the backbone's sums lie in a file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from wbc_common.lazily import Lazily
from wbc_common.models import is_head
from wbc_server.aggregation.add_scaled import add_scaled
from wbc_server.aggregation.pieces import Piece, sweep
from wbc_server.aggregation.sums import Sums, SumsInMemory

Float64s = NDArray[np.float64]

AT_ONCE = 5  # updates that share a pass, where memory is no matter


@dataclass(frozen=True)
class _Waiting:
    """Arrays of an update, contiguous and with one axis, and the weight that they are to be added with."""

    flat: Mapping[str, NDArray[np.float32]]
    weight: float


class WeightedSum:
    """Σ_k u_k·Δθ_k, Σ_k v_{k,c}·ΔW_{k,c} and the sums of their weights, one update at a time.

    Holds the head's sums, and fewer than `at_once` updates as they came, not copied, between calls.
    Integer buffers are not summed. Updates have passed `wbc_server.gate`. Each element is converted, multiplied and
    added by itself in the order of the calls: the bits are those of `sum += weight * value.astype(float64)`, whatever
    the pieces, the threads and how many wait.

    Args:
        at_once: updates that share a pass; 1 keeps none.
        sums: holds the backbone's sums, which are a float64 model.
    """

    def __init__(self, at_once: int = AT_ONCE, sums: Sums | None = None) -> None:
        self._at_once = at_once
        self._sums = sums or SumsInMemory()
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._heads: dict[str, Float64s] = {}
        self._backbone_weight = 0.0
        self._head_weight: Float64s = np.zeros(())  # [C] from the first update on
        self._waiting: list[_Waiting] = []

    def add(self, delta: Mapping[str, np.ndarray], backbone_weight: float, head_weight: Float64s) -> None:
        """Add one clinic's update.

        Args:
            delta: change of each array by its name, float32; must not be written to before `mean`.
            backbone_weight: u_k.
            head_weight: v_{k,c} of each row's class c, float64 [R].
        """
        floats = {key: value for key, value in delta.items() if value.dtype.kind == "f"}
        for key, value in floats.items():
            self._begin(key, value)
        for key in filter(is_head, floats):
            _add_rows(self._heads[key], floats[key], head_weight)
        backbone = {key: value for key, value in floats.items() if not is_head(key)}
        self._waiting.append(_Waiting({key: _flat(value) for key, value in backbone.items()}, backbone_weight))
        if len(self._waiting) >= self._at_once:
            self._add_waiting()
        self._add_weights(backbone_weight, head_weight)

    def mean(self) -> Mapping[str, Float64s]:
        """The weighted mean change, float64; 0 where the weights sum to 0, and empty when nothing was added.

        Each array is divided as it is looked up, so that no second float64 model arises.
        """
        self._add_waiting()
        return Lazily({key: partial(self._mean, key) for key in self._shapes})

    def _mean(self, key: str) -> Float64s:
        if is_head(key):
            return _rows_over(self._heads[key], self._head_weight)
        total = self._sums.read(key).reshape(self._shapes[key])
        return np.divide(total, self._backbone_weight, out=total) if self._backbone_weight > 0 else np.zeros_like(total)

    def _add_waiting(self) -> None:
        """Add the backbones that wait, piece by piece on all threads."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        arrays = {key: value for update in waiting for key, value in update.flat.items()}

        def add_pieces(_: int, pieces: Sequence[Piece]) -> None:
            for piece in pieces:
                holding = [update for update in waiting if piece.key in update.flat]
                values = [update.flat[piece.key][piece.part] for update in holding]
                with self._sums.at(piece) as total:
                    add_scaled(total, values, [update.weight for update in holding])

        sweep(arrays, add_pieces)

    def _add_weights(self, backbone_weight: float, head_weight: Float64s) -> None:
        self._backbone_weight += float(backbone_weight)
        self._head_weight = self._head_weight + head_weight

    def _begin(self, key: str, value: np.ndarray) -> None:
        """Have a sum under `key`, zeros at first. A shape that differs would broadcast, so it is our bug."""
        if key not in self._shapes:
            self._shapes[key] = value.shape
            if is_head(key):
                self._heads[key] = np.zeros(value.shape)
            else:
                self._sums.begin(key, value.size)
        assert self._shapes[key] == value.shape, f"{key}: {value.shape} added to {self._shapes[key]}"


def _add_rows(total: Float64s, value: np.ndarray, weight: Float64s) -> None:
    """total[c] += weight[c]·value[c] in float64, in place, for arrays of C rows."""
    assert len(weight) == len(value), f"{len(weight)} row weights for {len(value)} rows"
    for row, row_weight in enumerate(weight):
        total[row] += np.multiply(value[row], row_weight, dtype=np.float64)


def _flat(value: np.ndarray) -> NDArray[np.float32]:
    """Float32 with one axis; a copy only where a message's bytes lie badly for C."""
    return np.require(value, np.float32, ("C", "A")).reshape(-1)


def _rows_over(total: Float64s, weight: Float64s) -> Float64s:
    """total[c]/weight[c], 0 where the weight is 0."""
    divisor = np.reshape(weight, (-1,) + (1,) * (total.ndim - 1))  # [C, 1]
    mean: Float64s = np.divide(total, divisor, out=np.zeros_like(total), where=divisor > 0)
    return mean
