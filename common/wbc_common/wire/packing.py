"""Records as bytes, and as one parcel.

Flower sends every array as objects of its own, each with a request and a signature: a model of twenty arrays costs
a hundred requests a clinic and exchange. As one parcel it costs five. A clinic's two processes hand the same bytes on.
Packed, records are what they say of themselves, with the length of each array's bytes in place of these, and then the
bytes of all arrays one behind the other: written without a copy and read array by array, so that a file can hold them.
Flower has the encoding of the first part and offers it nowhere in its public API, so this is the one place that takes
it from inside.
"""

from collections.abc import Iterator
from typing import Protocol

from flwr.app import Array, ArrayRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto

from wbc_common.errors import MessageError

_RECORD, _ARRAY, _KIND = "parcel", "content", "wbc.records"
_LENGTH_BYTES = 8


class Source(Protocol):
    """Bytes read from the first to the last, such as a file."""

    def read(self, size: int, /) -> bytes:
        """The next so many bytes; fewer at the end."""


def pack(records: RecordDict) -> Iterator[bytes]:
    """Records as bytes, in parts; those of arrays are the arrays' own."""
    described = RecordDict(
        {
            name: ArrayRecord({key: _described(array) for key, array in record.items()})
            if isinstance(record, ArrayRecord)
            else record
            for name, record in records.items()
        }
    )
    head: bytes = recorddict_to_proto(described).SerializeToString(deterministic=True)
    yield len(head).to_bytes(_LENGTH_BYTES)
    yield head
    for array in _arrays(records):
        yield array.data


def unpack(source: Source) -> RecordDict:
    """Records from their bytes.

    Raises:
        MessageError: these are no records.
    """
    try:
        head = _exactly(source, int.from_bytes(_exactly(source, _LENGTH_BYTES)))
        records = recorddict_from_proto(RecordDictProto.FromString(head))
        for array in _arrays(records):
            array.data = _exactly(source, int.from_bytes(array.data))
    except Exception as error:
        raise _no_records("bytes that are no records") from error
    if source.read(1):
        raise _no_records("bytes behind records")
    return records


def make_parcel(content: bytes) -> RecordDict:
    """Packed records as a message's only content."""
    array = Array(dtype="uint8", shape=(len(content),), stype=_KIND, data=content)
    return RecordDict({_RECORD: ArrayRecord({_ARRAY: array})})


def open_parcel(records: RecordDict) -> bytes:
    """The packed records that a message carries; MessageError if it carries something else."""
    return parcel_array(records).data


def parcel_array(records: RecordDict) -> Array:
    """A parcel as Flower has it.

    Raises:
        MessageError: the records are something else.
    """
    record = records.get(_RECORD)
    if len(records) != 1 or not isinstance(record, ArrayRecord) or list(record) != [_ARRAY]:
        raise _no_records(f"records {', '.join(sorted(records))} in place of one parcel")
    if record[_ARRAY].stype != _KIND:
        raise _no_records(f"a parcel of kind {record[_ARRAY].stype!r}")
    return record[_ARRAY]


def _described(array: Array) -> Array:
    return Array(dtype=array.dtype, shape=array.shape, stype=array.stype, data=len(array.data).to_bytes(_LENGTH_BYTES))


def _arrays(records: RecordDict) -> Iterator[Array]:
    for record in records.values():
        if isinstance(record, ArrayRecord):
            yield from record.values()


def _exactly(source: Source, size: int) -> bytes:
    content = source.read(size)
    if len(content) != size:
        raise ValueError(f"{len(content)} bytes, expected {size}")
    return content


def _no_records(got: str) -> MessageError:
    return MessageError(got, remedy="run the same version of wbc-fl at coordinator and clinics")
