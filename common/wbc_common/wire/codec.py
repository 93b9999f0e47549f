"""Encoding of every message to and from Flower's records.

Decoding trusts nothing: a record that is missing, surplus, of another type or not readable is a MessageError. Whether
decoded values make sense is for the receiver (`wbc_server.gate`, `wbc_client.boundary`).
"""

from typing import get_args

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, ConfigRecordValues, Error, RecordDict

from wbc_common.stain_sums import StainSums
from wbc_common.wire.measures import (
    decode_request,
    decode_stain,
    decode_sums,
    encode_request,
    encode_stain,
    encode_sums,
)
from wbc_common.wire.messages import Description, EvaluationSplit, Reply, RoundReply, Task, TaskKind
from wbc_common.wire.names import (
    BIAS,
    CLINIC,
    COUNTS,
    ERROR_CODE,
    MODEL,
    REPLY_RECORDS,
    STAIN,
    STAIN_TOTALS,
    TASK,
    TOTALS,
    WISH,
)
from wbc_common.wire.records import array, config, decode_arrays, encode_arrays, flag, integer, only, wrong
from wbc_common.wire.rounds import encode_evaluation, encode_round


def encode_task(task: Task, model: ArrayRecord | None = None) -> RecordDict:
    """Records of a task.

    Args:
        model: the task's model, where it is encoded already: tasks that share it need no copy each.
    """
    values: dict[str, ConfigRecordValues] = {
        "kind": task.kind,
        "study-hash": task.study_hash,
        "round": task.round_number,
        "split": task.split,
        "replicates": task.replicates,
        "averaged": task.averaged,
    }
    records = RecordDict({TASK: ConfigRecord(values)})
    if task.model is not None:
        records[MODEL] = encode_arrays(task.model) if model is None else model
    if task.totals is not None:
        records[TOTALS] = encode_sums(task.totals)
    if task.stain is not None:
        records[STAIN_TOTALS] = encode_stain(task.stain)
    if task.calibration is not None:
        records[WISH] = encode_request(task.calibration)
    if task.prediction_bias is not None:
        records[BIAS] = encode_arrays({"bias": task.prediction_bias})
    return records


def decode_task(records: RecordDict) -> Task:
    """A task from its records.

    Raises:
        MessageError: they are not a task.
    """
    values = config(records, TASK)
    kind, split = values.get("kind"), values.get("split")
    if kind not in get_args(TaskKind) or split not in get_args(EvaluationSplit):
        raise wrong(f"task kind {kind!r} with split {split!r}", "a kind and split of this version")
    only(records, {TASK, MODEL, TOTALS, STAIN_TOTALS, WISH, BIAS})
    return Task(
        kind=kind,  # type: ignore[arg-type]
        study_hash=str(values.get("study-hash")),
        round_number=integer(values, "round"),
        model=decode_arrays(records, MODEL) if MODEL in records else None,
        totals=decode_sums(records, TOTALS) if TOTALS in records else None,
        split=split,  # type: ignore[arg-type]
        replicates=integer(values, "replicates"),
        averaged=flag(values, "averaged"),
        stain=decode_stain(records, STAIN_TOTALS) if STAIN_TOTALS in records else None,
        calibration=decode_request(records, WISH) if WISH in records else None,
        prediction_bias=array(records, BIAS, "bias", ndim=1) if BIAS in records else None,
    )


def encode_reply(reply: Reply) -> RecordDict:
    """Records of any reply."""
    if isinstance(reply, Description):
        return RecordDict(
            {CLINIC: ConfigRecord({"clinic": reply.clinic}), COUNTS: encode_arrays({"counts": reply.class_counts})}
        )
    if isinstance(reply, StainSums):
        return RecordDict({STAIN: encode_stain(reply)})
    if isinstance(reply, RoundReply):
        return encode_round(reply)
    return encode_evaluation(reply)


def decode_description(records: RecordDict) -> Description:
    """A clinic's description; MessageError if it is none."""
    only(records, REPLY_RECORDS["describe"])
    clinic = config(records, CLINIC).get("clinic")
    if not isinstance(clinic, str):
        raise wrong("a clinic name that is no text", "a name")
    return Description(clinic, array(records, COUNTS, "counts", ndim=2).astype(np.float64))


def decode_stain_sums(records: RecordDict) -> StainSums:
    """A clinic's stain sums; MessageError if they are none."""
    only(records, REPLY_RECORDS["stain-sums"])
    return decode_stain(records, STAIN)


def encode_error(kind: str, reference: str) -> Error:
    """The only thing that a failing clinic says: the kind of failure, and a reference into its own log."""
    return Error(code=ERROR_CODE, reason=f"{kind} (reference {reference})")


def num_bytes(records: RecordDict) -> int:
    """Size of the records' content in bytes, without Flower's envelope."""
    return sum(int(record.count_bytes()) for record in records.values())
