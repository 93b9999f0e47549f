"""What clinics say in a round, as records: an update with what came along, and an evaluation.

An evaluation has the same records whether it came with an update or alone.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
from flwr.app import MetricRecord, MetricRecordValues, RecordDict

from wbc_common.settings.transport import UpdatePrecision
from wbc_common.wire.measures import decode_calibration, decode_sums, encode_calibration, encode_sums
from wbc_common.wire.messages import Arrays, ClassSums, Evaluation, RoundReply, Update
from wbc_common.wire.names import (
    CALIBRATION,
    CONFUSION,
    COUNTS,
    OPTIONAL_RECORDS,
    PERSONAL,
    REPLY_RECORDS,
    SCALES,
    SHIFTED,
    SUMS,
    TRAINING,
    UPDATE,
)
from wbc_common.wire.records import array, decode_arrays, encode_arrays, integers, metrics, only, wrong
from wbc_common.wire.rounding import Rounded, restore_arrays, round_arrays

_BITS: Mapping[Literal["fp32", "bf16"], int] = {"fp32": 32, "bf16": 16}


def encode_round(reply: RoundReply) -> RecordDict:
    """Records of a training clinic's reply."""
    records = encode_evaluation(reply.evaluation) if reply.evaluation is not None else RecordDict()
    update = reply.update
    training: dict[str, MetricRecordValues] = {
        **update.losses,
        "cells": update.num_cells,
        "seconds": update.seconds,
        "precision-bits": _BITS[update.precision],
    }
    if update.epsilon is not None:
        training["epsilon"] = update.epsilon
    rounded = round_arrays(update.delta, update.sent_as)
    records[UPDATE] = encode_arrays(rounded.arrays)
    if rounded.scales is not None:
        records[SCALES] = encode_arrays({"scales": rounded.scales})
    records[COUNTS] = encode_arrays({"counts": update.class_counts})
    records[TRAINING] = MetricRecord(training)
    if reply.sums is not None:
        records[SUMS] = encode_sums(reply.sums)
    return records


def encode_evaluation(evaluation: Evaluation) -> RecordDict:
    """Records of an evaluation."""
    arrays: dict[str, np.ndarray] = {
        "confusion": evaluation.confusion,
        "replicates": evaluation.replicates.astype(np.int32),
        "coarse": evaluation.coarse,
    }
    records = RecordDict({CONFUSION: encode_arrays(arrays)})
    if evaluation.calibration is not None:
        records[CALIBRATION] = encode_calibration(evaluation.calibration)
    for name, confusion in ((SHIFTED, evaluation.shifted), (PERSONAL, evaluation.personal)):
        if confusion is not None:
            records[name] = encode_arrays({"confusion": confusion})
    return records


def decode_class_sums(records: RecordDict) -> ClassSums:
    """The class sums that came with a clinic's update; MessageError if there are none."""
    return decode_sums(records, SUMS)


def decode_update(records: RecordDict) -> Update:
    """A clinic's update, whatever came with it; MessageError if it is none."""
    only(records, REPLY_RECORDS["train"] | OPTIONAL_RECORDS["train"])
    training = metrics(records, TRAINING)
    beside = ("cells", "seconds", "precision-bits", "epsilon")
    losses = {name: value for name, value in training.items() if name not in beside}
    delta, sent_as = _decode_delta(records)
    return Update(
        delta=delta,
        class_counts=array(records, COUNTS, "counts", ndim=1).astype(np.float64),
        losses=losses,
        num_cells=_whole(training.get("cells", 0.0)),
        seconds=training.get("seconds", 0.0),
        epsilon=training.get("epsilon"),
        precision=_precision(training.get("precision-bits", 32.0)),
        sent_as=sent_as,
    )


def as_received(delta: Arrays, precision: UpdatePrecision) -> Arrays:
    """An update's arrays as the other side will read them."""
    return restore_arrays(round_arrays(delta, precision))


def _decode_delta(records: RecordDict) -> tuple[Arrays, UpdatePrecision]:
    """The update's arrays as float32, and what they were rounded to."""
    arrays = decode_arrays(records, UPDATE)
    scales = array(records, SCALES, "scales", ndim=1) if SCALES in records else None
    try:
        delta = restore_arrays(Rounded(arrays, scales))
    except ValueError as error:
        raise wrong(str(error), "a scale for each row of an update in int8") from error
    if scales is not None:
        return delta, "int8"
    return delta, "fp16" if any(value.dtype == np.float16 for value in arrays.values()) else "fp32"


def decode_evaluation(records: RecordDict) -> Evaluation:
    """A clinic's evaluation; MessageError if it is none."""
    only(records, REPLY_RECORDS["evaluate"] | OPTIONAL_RECORDS["evaluate"])
    return replace(
        decode_validation(records),
        calibration=decode_calibration(records, CALIBRATION) if CALIBRATION in records else None,
        shifted=integers(records, SHIFTED, "confusion", ndim=2) if SHIFTED in records else None,
        personal=integers(records, PERSONAL, "confusion", ndim=2) if PERSONAL in records else None,
    )


def decode_validation(records: RecordDict) -> Evaluation:
    """The counts of an evaluation, also where they came with an update; MessageError if there are none."""
    return Evaluation(
        confusion=integers(records, CONFUSION, "confusion", ndim=2),
        replicates=integers(records, CONFUSION, "replicates", ndim=3),
        coarse=integers(records, CONFUSION, "coarse", ndim=1),
    )


def bytes_by_stage(records: RecordDict) -> dict[str, int]:
    """Size in bytes of each part of a training clinic's reply: its update, and what came with it."""
    parts = {CONFUSION: "evaluation", SUMS: "class-sums"}
    sizes: dict[str, int] = {}
    for name, record in records.items():
        stage = parts.get(name, "update")
        sizes[stage] = sizes.get(stage, 0) + int(record.count_bytes())
    return sizes


def _precision(bits: float) -> Literal["fp32", "bf16"]:
    for name, size in _BITS.items():
        if bits == size:
            return name
    raise wrong(f"a precision of {bits} bits", f"one of {', '.join(map(str, _BITS.values()))}")


def _whole(number: float) -> int:
    if not number.is_integer():
        raise wrong(f"{number} cells", "a whole number")
    return int(number)
