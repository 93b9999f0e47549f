"""One message of each kind, and how each is read."""

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, RecordDict

from wbc_common.errors import MessageError
from wbc_common.stain_sums import StainSums
from wbc_common.wire import (
    OPTIONAL_RECORDS,
    REPLY_RECORDS,
    ClassSums,
    Description,
    Evaluation,
    Reply,
    RoundReply,
    Task,
    Update,
    decode_class_sums,
    decode_description,
    decode_evaluation,
    decode_stain_sums,
    decode_update,
    decode_validation,
    encode_reply,
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


def refused(decode: Callable[[RecordDict], Any], records: RecordDict) -> None:
    """It is a MessageError, and its text repeats nothing secret."""
    with pytest.raises(MessageError) as found:
        decode(records)
    assert SECRET not in str(found.value)


def raw(data: bytes, stype: str = "numpy.ndarray") -> Array:
    return Array(dtype="float32", shape=(2,), stype=stype, data=data)


def with_header(header: bytes, version: int = 1, numbers: bytes = b"") -> Array:
    """An array with a header as given."""
    length = struct.pack("<H" if version == 1 else "<I", len(header) + 1)
    return raw(b"\x93NUMPY" + bytes((version, 0)) + length + header + b"\n" + numbers)


def shaped(shape: str, descr: str = "'<f8'") -> bytes:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
