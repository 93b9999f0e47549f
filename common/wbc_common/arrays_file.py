"""Arrays as a .safetensors file in parts: written and read array by array, and equal content gives equal bytes.

The library's own writer copies every array twice, orders metadata differently from run to run, and writes the memory of
a transposed array under its logical shape. Reading is the library's, but where a file is of our own writing and larger
than memory shall hold: the library maps it, and keeps all that was looked at. The format: eight bytes that tell the
header's length, a JSON header, then the arrays one behind the other (https://huggingface.co/docs/safetensors).
"""

import json
import math
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

from wbc_common.lazily import Lazily

_ALIGNMENT = 8  # of the first array; larger types come first, so that all lie at multiples of their size
_METADATA = "__metadata__"
_TYPES = {
    np.dtype(kind): name
    for kind, name in {
        **{"f8": "F64", "f4": "F32", "f2": "F16", "?": "BOOL"},
        **{"i8": "I64", "i4": "I32", "i2": "I16", "i1": "I8"},
        **{"u8": "U64", "u4": "U32", "u2": "U16", "u1": "U8"},
    }.items()
}
_KINDS = {name: kind for kind, name in _TYPES.items()}


def arrays_as_file(
    arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> Iterator[bytes | memoryview]:
    """The parts of a whole .safetensors file; those of the arrays are views of their memory.

    Args:
        arrays: by name, of numbers or booleans, of any shape. Each is looked up for the header and again for its part.
        metadata: what the file says of itself, in the order of the names.

    Raises:
        ValueError: an array of something else.
    """
    header: dict[str, object] = {_METADATA: dict(sorted(metadata.items()))} if metadata else {}
    kinds = {key: (value.dtype, value.shape) for key, value in arrays.items()}
    names = sorted(kinds, key=lambda key: (-kinds[key][0].itemsize, key))
    end = 0
    for key in names:
        dtype, shape = kinds[key]
        if dtype not in _TYPES:
            raise ValueError(f"array '{key}' of {dtype} has no place in a .safetensors file")
        start, end = end, end + dtype.itemsize * math.prod(shape)
        header[key] = {"dtype": _TYPES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    written = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    written += b" " * (-len(written) % _ALIGNMENT)
    return chain((len(written).to_bytes(8, "little"), written), (_bytes_of(arrays[key]) for key in names))


def arrays_in_file(path: Path) -> Lazily:
    """Arrays of a file that `arrays_as_file` wrote, each read when it is looked up; the file may be removed meanwhile.

    Raises:
        OSError, ValueError: there is no such file.
    """
    file = path.open("rb")
    length = int.from_bytes(file.read(8), "little")
    if length > path.stat().st_size:
        raise ValueError(f"a header of {length} bytes, longer than the file")
    header = json.loads(file.read(length))
    if not isinstance(header, dict):
        raise ValueError("a header that names no arrays")

    def read(dtype: np.dtype, shape: list[int], start: int) -> np.ndarray:
        file.seek(8 + length + start)
        return np.fromfile(file, dtype, math.prod(shape)).reshape(shape)

    return Lazily(
        {
            key: partial(read, _KINDS[told["dtype"]], told["shape"], told["data_offsets"][0])
            for key, told in header.items()
            if key != _METADATA
        }
    )


def _bytes_of(value: np.ndarray) -> memoryview:
    return np.asarray(value, order="C").reshape(-1).view(np.uint8).data
