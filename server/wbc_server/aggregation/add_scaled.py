"""total += w_1·value_1, += w_2·value_2, … in float64: in C where a compiler is at hand, else by numpy, with equal bits.

numpy makes three passes a value, each of which writes as many float64 numbers as it reads. `add_scaled.c` reads all
values side by side and writes each sum once. Both round each product and each sum by itself, in the same order.
"""

import ctypes
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wbc_common.compiled import load_library

SOURCE = Path(__file__).with_suffix(".c")
ROUND_EACH = "-ffp-contract=off"  # no fused multiply-add, which rounds once for both


def add_scaled(total: NDArray[np.float64], values: Sequence[NDArray[np.float32]], weights: Sequence[float]) -> None:
    """Add scaled values to a total, in place and in order; Python's lock is free meanwhile.

    Args:
        total: float64 [N], contiguous.
        values: each float32 [N], contiguous and aligned.
        weights: one a value.
    """
    library = load_library(SOURCE, ROUND_EACH)
    if library is None:
        _add_by_numpy(total, values, weights)
        return
    library.add_scaled(
        ctypes.c_void_p(total.ctypes.data),
        (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values)),
        (ctypes.c_double * len(weights))(*weights),
        ctypes.c_int(len(values)),
        ctypes.c_size_t(len(total)),
    )


def _add_by_numpy(total: NDArray[np.float64], values: Sequence[NDArray[np.float32]], weights: Sequence[float]) -> None:
    scaled = np.empty(len(total))
    for value, weight in zip(values, weights, strict=True):
        np.copyto(scaled, value)
        np.multiply(scaled, weight, out=scaled)
        np.add(total, scaled, out=total)
