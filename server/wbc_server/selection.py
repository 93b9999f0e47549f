"""Which model is exported: the mean of the last rounds, one round's, or the best on training clinics' validation cells.

Never is a held-out clinic asked.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wbc_common.confusion import macro_f1
from wbc_common.study import EvaluationSettings


def mean_macro_f1(confusions: Mapping[str, Any]) -> float:
    """Mean over clinics of macro-F1 of clinic → confusion [C, C]; NaN where no clinic has a cell."""
    scores = [float(macro_f1(np.asarray(confusion))) for confusion in confusions.values()]
    defined = [score for score in scores if math.isfinite(score)]
    return sum(defined) / len(defined) if defined else math.nan


def first_averaged_round(rounds: int) -> int:
    """The first round of the last third, which is one round at least."""
    return rounds - math.ceil(rounds / 3) + 1


def name_export(selected_round: int, selection: str) -> str:
    """What is exported, in words: "mean of the models of rounds 6 to 8", "model of round 5"."""
    first = first_averaged_round(selected_round)
    if selection == "average" and first < selected_round:
        return f"mean of the models of rounds {first} to {selected_round}"
    return f"model of round {selected_round}"


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
