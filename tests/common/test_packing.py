"""Packed records come back as they were, and what is no packed records is refused."""

from io import BytesIO

import numpy as np
import pytest
from flwr.app import ConfigRecord, MetricRecord, RecordDict

from wbc_common.errors import MessageError
from wbc_common.wire import encode_arrays
from wbc_common.wire.packing import make_parcel, open_parcel, pack, unpack

RECORDS = RecordDict(
    {
        "after": ConfigRecord({"name": "x", "bytes": b"\x00\xff"}),
        "model": encode_arrays({"w": np.arange(6, dtype=np.float32).reshape(2, 3), "none": np.zeros((0, 2))}),
        "empty": encode_arrays({}),
        "loss": MetricRecord({"loss": 0.5}),
        "counts": encode_arrays({"counts": np.arange(5)}),
    }
)
PACKED = b"".join(pack(RECORDS))


def test_records_come_back_as_they_were() -> None:
    again = unpack(BytesIO(open_parcel(make_parcel(PACKED))))
    assert again == RECORDS
    assert list(again) == list(RECORDS)


def test_arrays_are_packed_without_a_copy() -> None:
    parts = list(pack(RECORDS))
    assert any(part is RECORDS.array_records["model"]["w"].data for part in parts)


@pytest.mark.parametrize("length", [0, 5, 8, 60, len(PACKED) - 1])
def test_records_cut_short_are_refused(length: int) -> None:
    with pytest.raises(MessageError, match="bytes that are no records"):
        unpack(BytesIO(PACKED[:length]))


def test_bytes_behind_records_are_refused() -> None:
    with pytest.raises(MessageError, match="bytes behind records"):
        unpack(BytesIO(PACKED + b"\x00"))


def test_a_length_beyond_all_memory_is_refused() -> None:
    with pytest.raises(MessageError, match="bytes that are no records"):
        unpack(BytesIO(b"\xff" * 8 + PACKED[8:]))
