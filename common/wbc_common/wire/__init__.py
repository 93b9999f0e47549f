"""Every message between coordinator and clinic. The only room of `wbc_common` that knows Flower.

`messages` says what is exchanged, `codec` how it is written as Flower's records, `records` reads those with suspicion,
`npy` the arrays in them.
"""

from wbc_common.wire.codec import (
    ERROR_CODE,
    MESSAGE_TYPES,
    OPTIONAL_RECORDS,
    REPLY_RECORDS,
    decode_class_sums,
    decode_description,
    decode_evaluation,
    decode_stain_sums,
    decode_task,
    decode_update,
    encode_error,
    encode_reply,
    encode_task,
    num_bytes,
)
from wbc_common.wire.messages import (
    Arrays,
    CalibrationRequest,
    ClassSums,
    Description,
    Evaluation,
    EvaluationSplit,
    Reply,
    Task,
    TaskKind,
    Update,
)
from wbc_common.wire.records import encode_arrays, record_arrays

__all__ = [
    "ERROR_CODE",
    "MESSAGE_TYPES",
    "OPTIONAL_RECORDS",
    "REPLY_RECORDS",
    "Arrays",
    "CalibrationRequest",
    "ClassSums",
    "Description",
    "Evaluation",
    "EvaluationSplit",
    "Reply",
    "Task",
    "TaskKind",
    "Update",
    "decode_class_sums",
    "decode_description",
    "decode_evaluation",
    "decode_stain_sums",
    "decode_task",
    "decode_update",
    "encode_arrays",
    "encode_error",
    "encode_reply",
    "encode_task",
    "num_bytes",
    "record_arrays",
]
