"""One array as Flower carries it: header and bytes in numpy's own format, written with one copy and read with none.

Flower's own way (`numpy.save` and `numpy.load` on a stream) copies an update several times. Writing joins header and
buffer once; the bytes are `numpy.save`'s. Reading parses the header with numpy's parser and hands out a *read-only
view* of the message's bytes, so that an update takes no memory but its message. The bytes come from outside: what is
not one array of plain numbers with exactly its bytes behind the header raises ValueError or TypeError. Pickle is never
read. Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

import io
import math
from functools import lru_cache

import numpy as np
from flwr.app import Array
from numpy.lib import format as npy

_STYPE = "numpy.ndarray"  # Flower's name of the format
_LENGTH_BYTES = {npy.magic(1, 0): 2, npy.magic(2, 0): 4}  # of the header's length, by version
_MAX_HEADER_BYTES = 4096  # numpy writes 128 for an array of few axes
_NUMBERS = "biufc"  # dtype kinds: bool, signed, unsigned, float, complex


def write_array(value: np.ndarray) -> Array:
    """An array of plain numbers of any shape as Flower's; one copy of its bytes."""
    ordered = np.asarray(value, order="C")
    header = io.BytesIO()
    npy.write_array_header_1_0(header, npy.header_data_from_array_1_0(ordered))
    content = ordered.reshape(-1).view(np.uint8).data
    data = b"".join((header.getvalue(), content))
    return Array(dtype=str(ordered.dtype), shape=ordered.shape, stype=_STYPE, data=data)


def view_array(array: Array) -> np.ndarray:
    """The numbers of an array, as a read-only view of its bytes.

    Raises:
        ValueError, TypeError: it is in another format, or not one array of numbers with exactly its bytes.
    """
    if array.stype != _STYPE:
        raise ValueError(f"array in format {array.stype!r}, expected {_STYPE!r}")
    header = _header_of(array.data)
    shape, fortran_order, dtype = _parse(header)
    found, expected = len(array.data) - len(header), math.prod(shape) * dtype.itemsize
    if found != expected:
        raise ValueError(f"array with {found} bytes behind its header, expected {expected}")
    return np.ndarray(shape, dtype, array.data, len(header), order="F" if fortran_order else "C")


def _header_of(data: bytes) -> bytes:
    """The bytes before the numbers; how many they are stands behind the version."""
    size = _LENGTH_BYTES.get(data[: npy.MAGIC_LEN])
    if size is None:
        raise ValueError("no array in version 1.0 or 2.0 of numpy's format")
    start = npy.MAGIC_LEN + size
    end = start + int.from_bytes(data[npy.MAGIC_LEN : start], "little")
    if end > min(len(data), _MAX_HEADER_BYTES):
        raise ValueError(f"array with a header of {end} bytes, expected at most {min(len(data), _MAX_HEADER_BYTES)}")
    return data[:end]


@lru_cache(maxsize=1024)
def _parse(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran's order, and dtype; remembered, since a study's arrays come with the same headers."""
    stream = io.BytesIO(header)
    parse = npy.read_array_header_1_0 if npy.read_magic(stream) == (1, 0) else npy.read_array_header_2_0
    shape, fortran_order, dtype = parse(stream)
    if dtype.kind not in _NUMBERS or min(shape, default=0) < 0:
        raise ValueError("array of something else than numbers")
    return shape, fortran_order, dtype
