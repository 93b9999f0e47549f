"""Encoding of the small sums that travel beside models: stain sums."""

import numpy as np
from flwr.app import ArrayRecord, RecordDict

from wbc_common.stain_sums import NUM_STATISTICS, StainSums
from wbc_common.wire.records import array, encode_arrays, integers, wrong


def encode_stain(sums: StainSums) -> ArrayRecord:
    """Stain sums as one record."""
    return encode_arrays({"images": np.array([sums.images]), "first": sums.first, "second": sums.second})


def decode_stain(records: RecordDict, name: str) -> StainSums:
    """Stain sums of record `name`; MessageError if it does not hold one whole number and two vectors of six floats."""
    images = integers(records, name, "images", ndim=1)
    first, second = (array(records, name, key, ndim=1) for key in ("first", "second"))
    shapes = (images.shape, first.shape, second.shape)
    if shapes != ((1,), (NUM_STATISTICS,), (NUM_STATISTICS,)) or {first.dtype.kind, second.dtype.kind} != {"f"}:
        raise wrong(f"stain sums of shapes {shapes}", f"one count and twice {NUM_STATISTICS} floats")
    return StainSums(int(images[0]), first.astype(np.float64), second.astype(np.float64))
