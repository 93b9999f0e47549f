"""Names of the records of every message, and which of them a reply may hold."""

from collections.abc import Mapping

from wbc_common.wire.messages import TaskKind

# Flower's message types, by task. Actions must be Python identifiers.
MESSAGE_TYPES: Mapping[TaskKind, str] = {
    "describe": "query.describe",
    "stain-sums": "query.stain_sums",
    "train": "train",
    "evaluate": "evaluate",
}
ERROR_CODE = 1000

SCALES = "update-scales"
TASK, MODEL, TOTALS, STAIN_TOTALS = "task", "model", "class-sum-totals", "stain-sum-totals"
STAIN, WISH, CALIBRATION = "stain-sums", "calibration-request", "calibration"
SHIFTED, PERSONAL, BIAS = "shifted", "personal", "prediction-bias"
CLINIC, COUNTS, SUMS, UPDATE, TRAINING, CONFUSION = (
    "clinic",
    "counts",
    "class-sums",
    "update",
    "training",
    "confusion",
)
REPLY_RECORDS: Mapping[TaskKind, frozenset[str]] = {
    "describe": frozenset({CLINIC, COUNTS}),
    "stain-sums": frozenset({STAIN}),
    "train": frozenset({UPDATE, COUNTS, TRAINING}),
    "evaluate": frozenset({CONFUSION}),
}

# What a reply may hold beside these, where it was asked for or the plan says so.
OPTIONAL_RECORDS: Mapping[TaskKind, frozenset[str]] = {
    "train": frozenset({CONFUSION, SUMS, SCALES}),
    "evaluate": frozenset({CALIBRATION, SHIFTED, PERSONAL}),
}
