"""Arrays on the wire: written and read as numpy and Flower do."""

import io

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord

from exchanges import (
    MODEL,
    raw,
    same,
    with_header,
)
from wbc_common.wire import (
    encode_arrays,
    record_arrays,
)

ARRAYS = {
    "matrix": MODEL["head.weight"],
    "scalar": np.array(7, np.int64),
    "nothing": np.zeros((0, 3), np.float16),
    "fortran": np.asfortranarray(MODEL["head.weight"]),
    "every second": np.arange(9.0)[::2],
    "big-endian": np.arange(3, dtype=">f4"),
    "bits": np.array([True, False]),
}


def saved(value: np.ndarray) -> bytes:
    """What numpy writes."""
    stream = io.BytesIO()
    np.save(stream, value)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ARRAYS)
def test_an_array_is_written_as_numpy_and_flower_write_it(kind: str) -> None:
    value = ARRAYS[kind]
    written, flowers = encode_arrays({"x": value})["x"], Array(np.array(value, order="C"))
    assert written.data == saved(np.array(value, order="C"))
    assert (written.dtype, written.shape, written.stype, written.data) == (
        flowers.dtype,
        flowers.shape,
        flowers.stype,
        flowers.data,
    )
    assert same(written.numpy(), np.array(value, order="C"))


@pytest.mark.parametrize("kind", ARRAYS)
def test_what_numpy_writes_is_read_as_numpy_reads_it(kind: str) -> None:
    data = saved(ARRAYS[kind])
    found = record_arrays(ArrayRecord({"x": raw(data)}))["x"]
    assert same(found, np.load(io.BytesIO(data)))


def test_an_array_that_is_read_is_a_view_of_its_message_that_nobody_can_write() -> None:
    array = Array(MODEL["head.weight"])
    found = record_arrays(ArrayRecord({"x": array}))["x"]
    assert np.shares_memory(found, np.frombuffer(array.data, np.uint8))
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1


def test_version_2_of_the_format_and_a_header_without_padding_are_read() -> None:
    array = with_header(
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", version=2, numbers=b"\0\0\x80?" * 2
    )
    assert same(record_arrays(ArrayRecord({"x": array}))["x"], np.ones(2, np.float32))
