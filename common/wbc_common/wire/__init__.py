"""Every message between coordinator and clinic. The only room of `wbc_common` that knows Flower.

`messages` says what is exchanged, `codec` how it is written as Flower's records (`rounds` what comes in a round),
`names` which there are; `records` reads those with suspicion, `npy` the arrays in them; `rounding` is what updates may
be rounded to.
"""

from wbc_common.wire.codec import (
    decode_description,
    decode_stain_sums,
    decode_task,
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
    RoundReply,
    Task,
    TaskKind,
    Update,
)
from wbc_common.wire.names import ERROR_CODE, MESSAGE_TYPES, OPTIONAL_RECORDS, REPLY_RECORDS
from wbc_common.wire.records import encode_arrays, record_arrays
from wbc_common.wire.rounds import (
    as_received,
    bytes_by_stage,
    decode_class_sums,
    decode_evaluation,
    decode_update,
    decode_validation,
)

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
    "RoundReply",
    "Task",
    "TaskKind",
    "Update",
    "as_received",
    "bytes_by_stage",
    "decode_class_sums",
    "decode_description",
    "decode_evaluation",
    "decode_stain_sums",
    "decode_task",
    "decode_update",
    "decode_validation",
    "encode_arrays",
    "encode_error",
    "encode_reply",
    "encode_task",
    "num_bytes",
    "record_arrays",
]
