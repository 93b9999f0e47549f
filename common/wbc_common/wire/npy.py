"""One array as Flower carries it: a header and bytes in numpy's own format, written and read with a single copy or none.

Flower's own way (`numpy.save` and `numpy.load` on a stream) copies an update several times. Writing joins header and
buffer once; the bytes are `numpy.save`'s. Reading parses the header with numpy's parser and hands out a *read-only
view* of the message's bytes, so that an update takes no memory but its message. The bytes come from outside: what is
not one array of plain numbers with exactly its bytes behind the header raises ValueError or TypeError. Pickle is never
read. Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

import io
import math

import numpy as np
from flwr.app import Array
from numpy.lib import format as npy

_STYPE = "numpy.ndarray"  # Flower's name of the format
_HEADER_PARSERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
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
    stream = io.BytesIO(array.data)
    parse = _HEADER_PARSERS.get(npy.read_magic(stream))
    if parse is None:
        raise ValueError("array of an unknown version of numpy's format, expected 1.0 or 2.0")
    shape, fortran_order, dtype = parse(stream)
    start = stream.tell()
    expected = math.prod(shape) * dtype.itemsize
    if dtype.kind not in _NUMBERS or dtype.hasobject or min(shape, default=0) < 0:
        raise ValueError("array of something else than numbers")
    if len(array.data) - start != expected:
        raise ValueError(f"array of {expected} bytes with {len(array.data) - start} behind its header")
    return np.ndarray(shape, dtype, array.data, start, order="F" if fortran_order else "C")
