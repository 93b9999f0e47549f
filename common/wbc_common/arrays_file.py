"""Arrays as a .safetensors file in parts: written without a copy of the model, and equal content gives equal bytes.

The library's own writer copies every array twice, orders metadata differently from run to run, and writes the memory of
a transposed array under its logical shape. Reading is the library's. The format: eight bytes that tell the header's
length, a JSON header, then the arrays one behind the other (https://huggingface.co/docs/safetensors).
"""

import json
from collections.abc import Mapping

import numpy as np

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


def arrays_as_file(
    arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> list[bytes | memoryview]:
    """The parts of a whole .safetensors file; those of the arrays are views of their memory.

    Args:
        arrays: by name, of numbers or booleans, of any shape.
        metadata: what the file says of itself, in the order of the names.

    Raises:
        ValueError: an array of something else.
    """
    header: dict[str, object] = {_METADATA: dict(sorted(metadata.items()))} if metadata else {}
    parts: list[bytes | memoryview] = []
    end = 0
    for key, value in sorted(arrays.items(), key=lambda item: (-item[1].itemsize, item[0])):
        if value.dtype not in _TYPES:
            raise ValueError(f"array '{key}' of {value.dtype} has no place in a .safetensors file")
        start, end = end, end + value.nbytes
        header[key] = {"dtype": _TYPES[value.dtype], "shape": list(value.shape), "data_offsets": [start, end]}
        parts.append(np.asarray(value, order="C").reshape(-1).view(np.uint8).data)
    written = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    written += b" " * (-len(written) % _ALIGNMENT)
    return [len(written).to_bytes(8, "little"), written, *parts]
