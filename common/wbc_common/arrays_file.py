"""Arrays as the bytes of a .safetensors file, where equal content gives equal bytes.

Two traps of safetensors 0.8 are met here: it writes metadata of more than one entry in an order that differs from run
to run, and the memory of a transposed array under its logical shape.
"""

import json
from collections.abc import Mapping

import numpy as np
from safetensors.numpy import save

_LENGTH_BYTES = 8  # little-endian length of the JSON header, before it
_METADATA = "__metadata__"


def arrays_to_bytes(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> bytes:
    """A whole .safetensors file (https://huggingface.co/docs/safetensors), its metadata in the order of their names.

    Args:
        arrays: by name, any shape and dtype that safetensors knows.
        metadata: what the file says of itself.
    """
    content: bytes = save({key: np.asarray(value, order="C") for key, value in arrays.items()}, dict(metadata or {}))
    if not metadata or len(metadata) == 1:
        return content
    start = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "little")
    header = json.loads(content[_LENGTH_BYTES:start])
    header[_METADATA] = dict(sorted(header[_METADATA].items()))
    written = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    written += b" " * (-len(written) % _LENGTH_BYTES)  # tensors begin at a multiple of 8
    return b"".join([len(written).to_bytes(_LENGTH_BYTES, "little"), written, memoryview(content)[start:]])
