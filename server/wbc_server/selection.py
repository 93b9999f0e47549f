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
    """The round to export: the best mean validation macro-F1, the later one on a tie; or the last.

    For `average` it is the last: the average of the last third ends there.
    """
    last = int(records[-1]["round"])
    if settings.selection in ("last", "average"):
        return last
    scored = [(mean_macro_f1(record["validation"]), int(record["round"])) for record in records if record["validation"]]
    defined = [pair for pair in scored if math.isfinite(pair[0])]
    return max(defined)[1] if defined else last
