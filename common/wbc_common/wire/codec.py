"""Encoding of every message to and from Flower's records, and the names of those records.

Decoding trusts nothing: a record that is missing, surplus, of another type or not readable is a MessageError. Whether
decoded values make sense is for the receiver (`wbc_server.gate`, `wbc_client.boundary`).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
from flwr.app import ConfigRecord, ConfigRecordValues, Error, MetricRecord, MetricRecordValues, RecordDict

from wbc_common.stain_sums import StainSums
from wbc_common.wire.measures import (
    decode_calibration,
    decode_request,
    decode_stain,
    encode_calibration,
    encode_request,
    encode_stain,
)
from wbc_common.wire.messages import (
    ClassSums,
    Description,
    Evaluation,
    EvaluationSplit,
    Reply,
    RoundReply,
    Task,
    TaskKind,
    Update,
)
from wbc_common.wire.records import (
    array,
    config,
    decode_arrays,
    encode_arrays,
    integer,
    integers,
    metrics,
    only,
    wrong,
)

# Flower's message types, by task. Actions must be Python identifiers.
MESSAGE_TYPES: Mapping[TaskKind, str] = {
    "describe": "query.describe",
    "stain-sums": "query.stain_sums",
    "train": "train",
    "evaluate": "evaluate",
}
ERROR_CODE = 1000
_BITS: Mapping[Literal["fp32", "bf16"], int] = {"fp32": 32, "bf16": 16}

_TASK, _MODEL, _TOTALS, _STAIN_TOTALS = "task", "model", "class-sum-totals", "stain-sum-totals"
_STAIN, _WISH, _CALIBRATION = "stain-sums", "calibration-request", "calibration"
_SHIFTED, _PERSONAL, _BIAS = "shifted", "personal", "prediction-bias"
_CLINIC, _COUNTS, _SUMS, _UPDATE, _TRAINING, _CONFUSION = (
    "clinic",
    "counts",
    "class-sums",
    "update",
    "training",
    "confusion",
)
REPLY_RECORDS: Mapping[TaskKind, frozenset[str]] = {
    "describe": frozenset({_CLINIC, _COUNTS}),
    "stain-sums": frozenset({_STAIN}),
    "train": frozenset({_UPDATE, _COUNTS, _TRAINING}),
    "evaluate": frozenset({_CONFUSION}),
}

# What a reply may hold beside these, where it was asked for or the plan says so.
OPTIONAL_RECORDS: Mapping[TaskKind, frozenset[str]] = {
    "train": frozenset({_CONFUSION, _SUMS}),
    "evaluate": frozenset({_CALIBRATION, _SHIFTED, _PERSONAL}),
}


def encode_task(task: Task) -> RecordDict:
    """Records of a task."""
    values: dict[str, ConfigRecordValues] = {
        "kind": task.kind,
        "study-hash": task.study_hash,
        "round": task.round_number,
        "split": task.split,
        "replicates": task.replicates,
    }
    records = RecordDict({_TASK: ConfigRecord(values)})
    if task.model is not None:
        records[_MODEL] = encode_arrays(task.model)
    if task.totals is not None:
        records[_TOTALS] = encode_arrays({"sums": task.totals.sums, "counts": task.totals.counts})
    if task.stain is not None:
        records[_STAIN_TOTALS] = encode_stain(task.stain)
    if task.calibration is not None:
        records[_WISH] = encode_request(task.calibration)
    if task.prediction_bias is not None:
        records[_BIAS] = encode_arrays({"bias": task.prediction_bias})
    return records


def decode_task(records: RecordDict) -> Task:
    """A task from its records.

    Raises:
        MessageError: they are not a task.
    """
    values = config(records, _TASK)
    kind, split = values.get("kind"), values.get("split")
    if kind not in get_args(TaskKind) or split not in get_args(EvaluationSplit):
        raise wrong(f"task kind {kind!r} with split {split!r}", "a kind and split of this version")
    only(records, {_TASK, _MODEL, _TOTALS, _STAIN_TOTALS, _WISH, _BIAS})
    return Task(
        kind=kind,  # type: ignore[arg-type]
        study_hash=str(values.get("study-hash")),
        round_number=integer(values, "round"),
        model=decode_arrays(records, _MODEL) if _MODEL in records else None,
        totals=_decode_sums(records, _TOTALS) if _TOTALS in records else None,
        split=split,  # type: ignore[arg-type]
        replicates=integer(values, "replicates"),
        stain=decode_stain(records, _STAIN_TOTALS) if _STAIN_TOTALS in records else None,
        calibration=decode_request(records, _WISH) if _WISH in records else None,
        prediction_bias=array(records, _BIAS, "bias", ndim=1) if _BIAS in records else None,
    )


def encode_reply(reply: Reply) -> RecordDict:
    """Records of any reply."""
    if isinstance(reply, Description):
        return RecordDict(
            {_CLINIC: ConfigRecord({"clinic": reply.clinic}), _COUNTS: encode_arrays({"counts": reply.class_counts})}
        )
    if isinstance(reply, StainSums):
        return RecordDict({_STAIN: encode_stain(reply)})
    if isinstance(reply, Update):
        return _encode_round(RoundReply(reply))
    if isinstance(reply, RoundReply):
        return _encode_round(reply)
    return _encode_evaluation(reply)


def _encode_round(reply: RoundReply) -> RecordDict:
    records = _encode_evaluation(reply.evaluation) if reply.evaluation is not None else RecordDict()
    update = reply.update
    training: dict[str, MetricRecordValues] = {
        **update.losses,
        "cells": update.num_cells,
        "seconds": update.seconds,
        "precision-bits": _BITS[update.precision],
    }
    if update.epsilon is not None:
        training["epsilon"] = update.epsilon
    records[_UPDATE] = encode_arrays(update.delta)
    records[_COUNTS] = encode_arrays({"counts": update.class_counts})
    records[_TRAINING] = MetricRecord(training)
    if reply.sums is not None:
        records[_SUMS] = encode_arrays({"sums": reply.sums.sums, "counts": reply.sums.counts})
    return records


def _encode_evaluation(evaluation: Evaluation) -> RecordDict:
    arrays: dict[str, np.ndarray] = {
        "confusion": evaluation.confusion,
        "replicates": evaluation.replicates.astype(np.int32),
        "coarse": evaluation.coarse,
    }
    records = RecordDict({_CONFUSION: encode_arrays(arrays)})
    if evaluation.calibration is not None:
        records[_CALIBRATION] = encode_calibration(evaluation.calibration)
    for name, confusion in ((_SHIFTED, evaluation.shifted), (_PERSONAL, evaluation.personal)):
        if confusion is not None:
            records[name] = encode_arrays({"confusion": confusion})
    return records


def decode_description(records: RecordDict) -> Description:
    """A clinic's description; MessageError if it is none."""
    only(records, REPLY_RECORDS["describe"])
    clinic = config(records, _CLINIC).get("clinic")
    if not isinstance(clinic, str):
        raise wrong("a clinic name that is no text", "a name")
    return Description(clinic, array(records, _COUNTS, "counts", ndim=2).astype(np.float64))


def decode_stain_sums(records: RecordDict) -> StainSums:
    """A clinic's stain sums; MessageError if they are none."""
    only(records, REPLY_RECORDS["stain-sums"])
    return decode_stain(records, _STAIN)


def decode_class_sums(records: RecordDict) -> ClassSums:
    """The class sums that came with a clinic's update; MessageError if there are none."""
    return _decode_sums(records, _SUMS)


def decode_update(records: RecordDict) -> Update:
    """A clinic's update, whatever came with it; MessageError if it is none."""
    only(records, REPLY_RECORDS["train"] | OPTIONAL_RECORDS["train"])
    training = metrics(records, _TRAINING)
    beside = ("cells", "seconds", "precision-bits", "epsilon")
    losses = {name: value for name, value in training.items() if name not in beside}
    return Update(
        delta=decode_arrays(records, _UPDATE),
        class_counts=array(records, _COUNTS, "counts", ndim=1).astype(np.float64),
        losses=losses,
        num_cells=_whole(training.get("cells", 0.0)),
        seconds=training.get("seconds", 0.0),
        epsilon=training.get("epsilon"),
        precision=_precision(training.get("precision-bits", 32.0)),
    )


def decode_evaluation(records: RecordDict) -> Evaluation:
    """A clinic's evaluation; MessageError if it is none."""
    only(records, REPLY_RECORDS["evaluate"] | OPTIONAL_RECORDS["evaluate"])
    return replace(
        decode_validation(records),
        calibration=decode_calibration(records, _CALIBRATION) if _CALIBRATION in records else None,
        shifted=integers(records, _SHIFTED, "confusion", ndim=2) if _SHIFTED in records else None,
        personal=integers(records, _PERSONAL, "confusion", ndim=2) if _PERSONAL in records else None,
    )


def decode_validation(records: RecordDict) -> Evaluation:
    """The counts of an evaluation, also where they came with an update; MessageError if there are none."""
    return Evaluation(
        confusion=integers(records, _CONFUSION, "confusion", ndim=2),
        replicates=integers(records, _CONFUSION, "replicates", ndim=3),
        coarse=integers(records, _CONFUSION, "coarse", ndim=1),
    )


def encode_error(kind: str, reference: str) -> Error:
    """The only thing that a failing clinic says: the kind of failure, and a reference into its own log."""
    return Error(code=ERROR_CODE, reason=f"{kind} (reference {reference})")


def num_bytes(records: RecordDict) -> int:
    """Size of the records' content in bytes, without Flower's envelope."""
    return sum(int(record.count_bytes()) for record in records.values())


def bytes_by_stage(records: RecordDict) -> dict[str, int]:
    """Size in bytes of each part of a training clinic's reply: its update, and what came with it."""
    parts = {_CONFUSION: "evaluation", _SUMS: "class-sums"}
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


def _decode_sums(records: RecordDict, name: str) -> ClassSums:
    sums = array(records, name, "sums", ndim=2).astype(np.float64)
    counts = array(records, name, "counts", ndim=1).astype(np.float64)
    if len(sums) != len(counts):
        raise wrong(f"{len(sums)} class sums with {len(counts)} counts", "as many of both")
    return ClassSums(sums, counts)
