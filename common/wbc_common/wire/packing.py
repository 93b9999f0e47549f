"""Records as bytes, and as one parcel.

Flower sends every array as objects of its own, each with a request and a signature: a model of twenty arrays costs
a hundred requests a clinic and exchange. As one parcel it costs four. A clinic's two processes hand the same bytes on.
Flower has the encoding and offers it nowhere in its public API, so this is the one place that takes it from inside.
"""

from flwr.app import Array, ArrayRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto

from wbc_common.errors import MessageError

_RECORD, _ARRAY, _KIND = "parcel", "content", "wbc.records"


def pack(records: RecordDict) -> bytes:
    """Records as bytes."""
    content: bytes = recorddict_to_proto(records).SerializeToString(deterministic=True)
    return content


def unpack(content: bytes) -> RecordDict:
    """Records from their bytes.

    Raises:
        MessageError: these are no records.
    """
    try:
        parsed = RecordDictProto.FromString(content)
        del content  # where the caller holds it no more, it makes room for the records
        return recorddict_from_proto(parsed)
    except Exception as error:
        raise _no_records("bytes that are no records") from error


def make_parcel(content: bytes) -> RecordDict:
    """Packed records as a message's only content."""
    array = Array(dtype="uint8", shape=(len(content),), stype=_KIND, data=content)
    return RecordDict({_RECORD: ArrayRecord({_ARRAY: array})})


def open_parcel(records: RecordDict) -> bytes:
    """The packed records that a message carries.

    Raises:
        MessageError: it carries something else.
    """
    record = records.get(_RECORD)
    if len(records) != 1 or not isinstance(record, ArrayRecord) or list(record) != [_ARRAY]:
        raise _no_records(f"records {', '.join(sorted(records))} in place of one parcel")
    if record[_ARRAY].stype != _KIND:
        raise _no_records(f"a parcel of kind {record[_ARRAY].stype!r}")
    return record[_ARRAY].data


def _no_records(got: str) -> MessageError:
    return MessageError(got, remedy="run the same version of wbc-fl at coordinator and clinics")
