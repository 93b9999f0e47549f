"""Which round's model is exported: chosen on training clinics' validation cells, never on a held-out clinic."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wbc_common.confusion import macro_f1
from wbc_common.study import EvaluationSettings

JournalRecord = Mapping[str, Any]


def mean_macro_f1(confusions: Mapping[str, Any]) -> float:
    """Mean over clinics of macro-F1 of clinic → confusion [C, C]; NaN where no clinic has a cell."""
    scores = [float(macro_f1(np.asarray(confusion))) for confusion in confusions.values()]
    defined = [score for score in scores if math.isfinite(score)]
    return sum(defined) / len(defined) if defined else math.nan


def select_round(records: Sequence[JournalRecord], settings: EvaluationSettings) -> int:
    """The round to export, from whole records of the journal; see `select_scored`."""
    return select_scored([(int(record["round"]), mean_macro_f1(record["validation"])) for record in records], settings)


def select_scored(scores: Sequence[tuple[int, float]], settings: EvaluationSettings) -> int:
    """The round to export: the best mean validation macro-F1, the later one on a tie; or the last.

    For `average` it is the last: the average of the last third ends there.

    Args:
        scores: each round with its mean validation macro-F1, NaN where it was not measured; at least one.
    """
    last = scores[-1][0]
    if settings.selection in ("last", "average"):
        return last
    defined = [(score, number) for number, score in scores if math.isfinite(score)]
    return max(defined)[1] if defined else last
