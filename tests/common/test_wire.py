"""Messages: what goes in comes out, and whatever is not ours is one kind of error that repeats none of its content."""

import io
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from wbc_common.calibration import CalibrationCounts
from wbc_common.errors import MessageError
from wbc_common.stain_sums import StainSums
from wbc_common.wire import (
    ERROR_CODE,
    MESSAGE_TYPES,
    OPTIONAL_RECORDS,
    REPLY_RECORDS,
    CalibrationRequest,
    ClassSums,
    Description,
    Evaluation,
    Reply,
    RoundReply,
    Task,
    Update,
    bytes_by_stage,
    decode_class_sums,
    decode_description,
    decode_evaluation,
    decode_stain_sums,
    decode_task,
    decode_update,
    decode_validation,
    encode_arrays,
    encode_error,
    encode_reply,
    encode_task,
    num_bytes,
    record_arrays,
)

MODEL = {"head.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "head.bias": np.zeros(2, dtype=np.float32)}
SUMS = ClassSums(np.arange(6, dtype=np.float64).reshape(2, 3), np.array([1.0, 2.5]))
DESCRIPTION = Description("east", np.arange(6, dtype=np.float64).reshape(3, 2))
UPDATE = Update(MODEL, np.array([3.0, 1.5]), {"loss": 0.5, "guide": 0.25}, num_cells=5, seconds=1.5)
EVALUATION = Evaluation(np.eye(2, dtype=np.int64), np.ones((4, 2, 2), dtype=np.int64), np.array([3, 1]))
ROUND = RoundReply(UPDATE, EVALUATION, SUMS)
STAIN = StainSums(7, np.arange(6, dtype=np.float64), np.arange(6, dtype=np.float64) ** 2)


def alone(update: Update) -> RecordDict:
    """Records of an update that nothing came with."""
    return encode_reply(RoundReply(update))


def decode_round(records: RecordDict) -> RoundReply:
    return RoundReply(decode_update(records), decode_validation(records), decode_class_sums(records))


REPLIES: dict[str, tuple[Reply, Callable[[RecordDict], Any]]] = {
    "describe": (DESCRIPTION, decode_description),
    "stain-sums": (STAIN, decode_stain_sums),
    "train": (RoundReply(UPDATE), lambda records: RoundReply(decode_update(records))),
    "evaluate": (EVALUATION, decode_evaluation),
    "whole round": (ROUND, decode_round),
}
NAMES = {**REPLY_RECORDS, "whole round": (REPLY_RECORDS["train"] | OPTIONAL_RECORDS["train"]) - {"update-scales"}}
SECRET = "patient-4711"


def same(one: Any, other: Any) -> bool:
    """Equality of messages down to dtype and bits of their arrays."""
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if hasattr(one, "__dataclass_fields__"):
        return type(one) is type(other) and same(vars(one), vars(other))
    return bool(one == other)


TASK = Task("train", "f" * 64, round_number=3, model=MODEL, totals=SUMS, split="test", replicates=20)


@pytest.mark.parametrize(
    "task",
    [
        TASK,
        Task("describe", "0"),
        replace(TASK, totals=None),
        replace(TASK, stain=STAIN),
        replace(TASK, averaged=True),
        replace(TASK, prediction_bias=np.array([0.5, -0.5], np.float32)),
    ],
)
def test_a_task_arrives_as_it_was_sent(task: Task) -> None:
    assert same(decode_task(encode_task(task)), task)


@pytest.mark.parametrize("kind", REPLIES)
def test_a_reply_arrives_as_it_was_sent_in_exactly_its_records(kind: str) -> None:
    reply, decode = REPLIES[kind]
    records = encode_reply(reply)
    assert set(records) == NAMES[kind]  # type: ignore[index]
    assert same(decode(records), reply)


def test_every_task_has_a_message_type_and_a_reply() -> None:
    assert set(MESSAGE_TYPES) == set(REPLY_RECORDS) == set(REPLIES) - {"whole round"}
    assert all(part.isidentifier() for name in MESSAGE_TYPES.values() for part in name.split("."))


def test_values_that_are_not_finite_pass_for_the_gate_to_judge() -> None:
    delta = {"head.bias": np.array([np.nan, np.inf], dtype=np.float32)}
    update = decode_update(alone(replace(UPDATE, delta=delta, losses={"loss": float("nan")})))
    assert np.isnan(update.delta["head.bias"][0])
    assert np.isnan(update.losses["loss"])


def test_arrays_in_fortran_order_and_scalars_keep_their_values() -> None:
    odd = {"f": np.asfortranarray(MODEL["head.weight"]), "scalar": np.float32(2.0).reshape(())}
    found = decode_update(alone(replace(UPDATE, delta=odd))).delta
    assert np.array_equal(found["f"], odd["f"])
    assert (found["scalar"].shape, float(found["scalar"])) == ((), 2.0)


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


def test_bytes_are_counted_over_all_records() -> None:
    records = alone(replace(UPDATE, delta={"x": np.zeros(1000, dtype=np.float32)}))
    assert 4000 < num_bytes(records) < 5000


def test_bytes_of_a_round_are_told_apart_by_what_they_are_of() -> None:
    records = encode_reply(ROUND)
    sizes = bytes_by_stage(records)
    assert sizes["update"] == num_bytes(alone(UPDATE))
    assert sizes["evaluation"] == num_bytes(encode_reply(EVALUATION))
    assert sum(sizes.values()) == num_bytes(records)
    assert set(sizes) == {"update", "evaluation", "class-sums"}


def test_an_error_says_kind_and_reference_only() -> None:
    error = encode_error("data", "00ff")
    assert (error.code, error.reason) == (ERROR_CODE, "data (reference 00ff)")


def test_class_sums_add() -> None:
    assert same(SUMS + SUMS, ClassSums(2 * SUMS.sums, 2 * SUMS.counts))


def refused(decode: Callable[[RecordDict], Any], records: RecordDict) -> None:
    """It is a MessageError, and its text repeats nothing secret."""
    with pytest.raises(MessageError) as found:
        decode(records)
    assert SECRET not in str(found.value)


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


def raw(data: bytes, stype: str = "numpy.ndarray") -> Array:
    return Array(dtype="float32", shape=(2,), stype=stype, data=data)


def with_header(header: bytes, version: int = 1, numbers: bytes = b"") -> Array:
    """An array with a header as given."""
    length = struct.pack("<H" if version == 1 else "<I", len(header) + 1)
    return raw(b"\x93NUMPY" + bytes((version, 0)) + length + header + b"\n" + numbers)


def shaped(shape: str, descr: str = "'<f8'") -> bytes:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()


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


def test_encoding_arrays_keeps_their_order() -> None:
    assert list(encode_arrays({"b": np.zeros(1), "a": np.zeros(1)})) == ["b", "a"]


@pytest.mark.parametrize("stain", [replace(STAIN, first=np.zeros(5)), replace(STAIN, second=np.arange(6))])
def test_stain_sums_of_another_shape_or_type_are_refused(stain: StainSums) -> None:
    refused(decode_stain_sums, encode_reply(stain))


def test_an_update_carries_the_privacy_budget_that_was_spent() -> None:
    private = replace(UPDATE, losses={}, epsilon=2.5)
    assert same(decode_update(alone(private)), private)


def test_calibration_counts_and_further_matrices_arrive_as_they_were_sent() -> None:
    table, row = np.arange(8).reshape(2, 2, 2), np.arange(4).reshape(2, 2)
    counts = CalibrationCounts(np.ones(3), np.ones(3) / 3, table, table + 1, table / 7, row, row + 1)
    rich = replace(EVALUATION, calibration=counts, shifted=row, personal=row + 5)
    records = encode_reply(rich)
    assert set(records) == REPLY_RECORDS["evaluate"] | OPTIONAL_RECORDS["evaluate"]
    assert same(decode_evaluation(records), rich)
    task = replace(TASK, kind="evaluate", calibration=CalibrationRequest(1.5, np.array([0.25, 0.75])))
    assert same(decode_task(encode_task(task)), task)


@pytest.mark.parametrize("temperature", [0.0, -1.0, np.nan, np.inf])
def test_a_temperature_that_is_none_is_refused(temperature: float) -> None:
    task = replace(TASK, calibration=CalibrationRequest(temperature, np.ones(2)))
    refused(decode_task, encode_task(task))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_update_says_what_was_computed_in(precision: str) -> None:
    update = replace(UPDATE, precision=precision)  # type: ignore[arg-type]
    assert decode_update(alone(update)).precision == precision


def test_an_unknown_precision_is_refused() -> None:
    records = alone(UPDATE)
    records["training"]["precision-bits"] = 8  # type: ignore[index]
    with pytest.raises(MessageError, match=r"a precision of 8\.0 bits, expected one of 32, 16"):
        decode_update(records)
