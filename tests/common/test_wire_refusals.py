"""Messages that are not what they should be are refused, and what they hold is not told."""

import io
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from exchanges import (
    DESCRIPTION,
    EVALUATION,
    REPLIES,
    ROUND,
    SECRET,
    SUMS,
    TASK,
    UPDATE,
    alone,
    raw,
    refused,
    shaped,
    with_header,
)
from wbc_common.wire import (
    ClassSums,
    decode_class_sums,
    decode_description,
    decode_evaluation,
    decode_task,
    decode_update,
    decode_validation,
    encode_reply,
    encode_task,
)


def everything() -> list[tuple[str, Callable[[RecordDict], Any], Callable[[], RecordDict]]]:
    replies = [(kind, decode, lambda reply=reply: encode_reply(reply)) for kind, (reply, decode) in REPLIES.items()]
    return [("task", decode_task, lambda: encode_task(TASK)), *replies]


MESSAGES = pytest.mark.parametrize(("decode", "encode"), [rest for _, *rest in everything()], ids=[*["task"], *REPLIES])


@MESSAGES
def test_a_missing_record_is_refused(decode: Callable[[RecordDict], Any], encode: Callable[[], RecordDict]) -> None:
    needed = set(encode()) - {"model", "class-sum-totals"}
    for name in needed:
        records = encode()
        del records[name]
        refused(decode, records)


@MESSAGES
def test_a_surplus_record_is_refused(decode: Callable[[RecordDict], Any], encode: Callable[[], RecordDict]) -> None:
    records = encode()
    records["more"] = ConfigRecord({"file": SECRET})
    refused(decode, records)


@MESSAGES
def test_a_record_of_another_type_is_refused(
    decode: Callable[[RecordDict], Any], encode: Callable[[], RecordDict]
) -> None:
    for name, record in encode().items():
        records = encode()
        records[name] = MetricRecord({"x": 1}) if isinstance(record, ArrayRecord) else ArrayRecord()
        refused(decode, records)


def pickled() -> Array:
    """An array that numpy reads with pickle only."""
    stream = io.BytesIO()
    np.save(stream, np.array([SECRET], dtype=object), allow_pickle=True)
    return Array(dtype="object", shape=(1,), stype="numpy.ndarray", data=stream.getvalue())


def zipped() -> Array:
    """An archive of arrays, which numpy opens where one array is expected."""
    stream = io.BytesIO()
    np.savez(stream, counts=np.zeros(2))
    return Array(dtype="float64", shape=(2,), stype="numpy.ndarray", data=stream.getvalue())


UNREADABLE = {
    "pickled": pickled(),
    "zipped": zipped(),
    "empty": raw(b""),
    "text": raw(SECRET.encode()),
    "truncated": raw(Array(np.zeros(9)).data[:-3]),
    "another stype": raw(b"x", stype="torch"),
    "of 10¹⁵ numbers and none there": with_header(shaped("(1000000000000000,)")),
    "with more than its numbers": raw(Array(np.zeros(9)).data + b"x"),
    "of negative length": with_header(shaped("(-1, -2)"), numbers=bytes(16)),
    "of text": with_header(shaped("(2,)", "'<U1'"), numbers=bytes(8)),
    "of 10¹⁵ times nothing": with_header(shaped("(1000000000000000,)", "'<V0'")),
    "of records": with_header(shaped("(1,)", "[('a', '<f8')]"), numbers=bytes(8)),
    "of version 3": with_header(shaped("(1,)"), version=3, numbers=bytes(8)),
    "with a header past its end": raw(b"\x93NUMPY\x01\x00" + struct.pack("<H", 4000) + b"{"),
    "with an endless header": with_header(shaped("(1,)") + b" " * 60_000, numbers=bytes(8)),
    "with code in its header": with_header(shaped("(__import__('os').getpid(),)"), numbers=bytes(8)),
}


@MESSAGES
@pytest.mark.parametrize("bad", UNREADABLE)
def test_an_array_that_cannot_be_read_is_refused(
    decode: Callable[[RecordDict], Any], encode: Callable[[], RecordDict], bad: str
) -> None:
    for name, record in encode().items():
        for key in record if isinstance(record, ArrayRecord) else ():
            records = encode()
            records[name][key] = UNREADABLE[bad]  # type: ignore[index]
            refused(decode, records)


@pytest.mark.parametrize(
    ("kind", "record", "key"),
    [
        ("describe", "counts", "counts"),
        ("stain-sums", "stain-sums", "images"),
        ("stain-sums", "stain-sums", "first"),
        ("stain-sums", "stain-sums", "second"),
        ("whole round", "class-sums", "sums"),
        ("whole round", "class-sums", "counts"),
        ("train", "counts", "counts"),
        ("evaluate", "confusion", "confusion"),
        ("evaluate", "confusion", "replicates"),
        ("evaluate", "confusion", "coarse"),
    ],
)
def test_an_array_that_is_absent_of_wrong_axes_or_no_numbers_is_refused(kind: str, record: str, key: str) -> None:
    reply, decode = REPLIES[kind]
    values = encode_reply(reply)[record][key].numpy()  # type: ignore[index]
    for wrong in (values[None], values[0], np.full(values.shape, SECRET), values.astype(complex), values > 0):
        records = encode_reply(reply)
        # np.array keeps a single number without axes, where np.ascontiguousarray would give it one.
        records[record][key] = Array(np.array(wrong, order="C"))  # type: ignore[index]
        refused(decode, records)
    records = encode_reply(reply)
    del records[record][key]  # type: ignore[attr-defined]
    refused(decode, records)


@pytest.mark.parametrize("key", ["confusion", "replicates", "coarse"])
def test_counts_of_an_evaluation_must_be_integers(key: str) -> None:
    records = encode_reply(EVALUATION)
    values = records["confusion"][key].numpy()  # type: ignore[index]
    records["confusion"][key] = Array(values.astype(np.float64))  # type: ignore[index]
    refused(decode_evaluation, records)


def test_as_many_class_sums_as_counts_are_needed() -> None:
    refused(decode_class_sums, encode_reply(replace(ROUND, sums=ClassSums(SUMS.sums, np.ones(3)))))


def test_an_update_alone_holds_neither_figures_nor_class_sums() -> None:
    refused(decode_validation, alone(UPDATE))
    refused(decode_class_sums, alone(UPDATE))
    with_figures = replace(EVALUATION, personal=np.eye(2, dtype=np.int64))  # more than comes with an update
    refused(decode_update, encode_reply(replace(ROUND, evaluation=with_figures)))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("kind", "delete"),
        ("kind", ["train"]),
        ("kind", 1),
        ("split", "train"),
        ("round", -1),
        ("round", "1"),
        ("round", 1.0),
        ("round", True),
        ("replicates", -5),
        ("replicates", [1]),
        ("averaged", 1),
        ("averaged", "yes"),
    ],
)
def test_a_task_with_a_wrong_value_is_refused(key: str, value: Any) -> None:
    records = encode_task(TASK)
    records["task"][key] = value  # type: ignore[index]
    refused(decode_task, records)


@pytest.mark.parametrize("key", ["kind", "split", "round", "replicates", "averaged"])
def test_a_task_that_lacks_a_value_is_refused(key: str) -> None:
    records = encode_task(TASK)
    del records["task"][key]  # type: ignore[attr-defined]
    refused(decode_task, records)


@pytest.mark.parametrize("cells", [float("nan"), float("inf"), 2.5, [1, 2]])
def test_cells_that_are_no_whole_number_are_refused(cells: Any) -> None:
    records = alone(UPDATE)
    records["training"]["cells"] = cells  # type: ignore[index]
    refused(decode_update, records)


def test_a_clinic_name_that_is_no_text_is_refused() -> None:
    records = encode_reply(DESCRIPTION)
    records["clinic"]["clinic"] = 7  # type: ignore[index]
    refused(decode_description, records)
