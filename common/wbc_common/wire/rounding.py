"""Arrays in fewer bits: what an update is rounded to on its way (docs/method.md §10).

    fp16    x̂ = the nearest float16, cut off at ±65504
    int8    s_r = max |x_r| / 127,  q = round(x / s_r),  x̂ = s_r·q        one scale a row r; |x̂ − x| ≤ s_r / 2

A row is the first axis of an array of two or more axes, an output channel or a class; other arrays are one row. The
nearest value and no random one: with error feedback (`wbc_client.state.error_feedback`) the error does not pile up, and
the same update gives the same bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wbc_common.settings.transport import UpdatePrecision
from wbc_common.wire.messages import Arrays

_LARGEST_HALF = float(np.finfo(np.float16).max)
_LEVELS = 127


@dataclass(frozen=True)
class Rounded:
    """Arrays as they travel, and for int8 the scales float32 [S] of all their rows, in the arrays' order."""

    arrays: Arrays
    scales: NDArray[np.float32] | None = None


def round_arrays(arrays: Mapping[str, np.ndarray], precision: UpdatePrecision) -> Rounded:
    """Arrays in a precision; those that are not float32 stay as they are."""
    if precision == "fp32":
        return Rounded(dict(arrays))
    floats = {key: value for key, value in arrays.items() if value.dtype == np.float32}
    if precision == "fp16":
        return Rounded({**arrays, **{key: _to_half(value) for key, value in floats.items()}})
    pairs = {key: _to_int8(value) for key, value in floats.items()}
    scales = np.concatenate([np.zeros(0, np.float32), *(scale for _, scale in pairs.values())])
    return Rounded({**arrays, **{key: levels for key, (levels, _) in pairs.items()}}, scales)


def restore_arrays(rounded: Rounded) -> Arrays:
    """Rounded arrays as float32; fp32 ones are handed out as they are.

    Raises:
        ValueError: scales that are missing, do not fit the arrays, or are not finite numbers from 0.
    """
    if rounded.scales is None:
        if any(value.dtype == np.int8 for value in rounded.arrays.values()):
            raise ValueError("int8 numbers without scales")
        return {
            key: value.astype(np.float32) if value.dtype == np.float16 else value
            for key, value in rounded.arrays.items()
        }
    scales = _checked(rounded)
    restored, start = {}, 0
    for key, value in rounded.arrays.items():
        if value.dtype != np.int8:
            restored[key] = value
            continue
        end = start + num_rows(value)
        restored[key] = _from_int8(value, scales[start:end])
        start = end
    return restored


def num_rows(value: np.ndarray) -> int:
    """Rows with a scale of their own."""
    return int(value.shape[0]) if value.ndim > 1 else 1


def _checked(rounded: Rounded) -> NDArray[np.float32]:
    scales = rounded.scales
    assert scales is not None
    expected = sum(num_rows(value) for value in rounded.arrays.values() if value.dtype == np.int8)
    if scales.dtype != np.float32 or scales.shape != (expected,):
        raise ValueError(f"scales {scales.dtype} {scales.shape}, expected float32 ({expected},)")
    if not np.isfinite(scales).all() or (scales < 0).any():
        raise ValueError("scales that are not finite or below 0")
    return scales


def _to_half(value: np.ndarray) -> NDArray[np.float16]:
    half: NDArray[np.float16] = np.clip(value, -_LARGEST_HALF, _LARGEST_HALF).astype(np.float16)
    return half


def _to_int8(value: np.ndarray) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Levels of the same shape, and a scale a row; a number that is not finite makes its row's scale no number too."""
    rows = _rows(value)
    with np.errstate(invalid="ignore", over="ignore"):
        scales = (np.abs(rows).max(axis=1, initial=0.0) / np.float32(_LEVELS)).astype(np.float32)
        levels = np.rint(rows / np.where(scales > 0, scales, np.float32(np.inf))[:, None])
        return np.clip(levels, -_LEVELS, _LEVELS).astype(np.int8).reshape(value.shape), scales


def _from_int8(levels: np.ndarray, scales: NDArray[np.float32]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # whether the numbers are finite is for the gate to say
        restored: NDArray[np.float32] = _rows(levels).astype(np.float32)
        restored *= scales[:, None]
    return restored.reshape(levels.shape)


def _rows(value: np.ndarray) -> np.ndarray:
    rows = num_rows(value)
    return value.reshape(rows, value.size // max(rows, 1))  # [rows, ...]
