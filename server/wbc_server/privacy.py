"""DP-SGD seen from the coordinator: plans that it cannot carry are refused at start, what each clinic spent is told.

The server believes a clinic's ε as the clinic states it; the budget and its hard stop are the clinic's own
(`wbc_client.state.privacy_budget`).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wbc_common.models import build_model
from wbc_common.privacy import check_backbone, check_delta
from wbc_common.study import StudyConfig


def check_privacy(study: StudyConfig, training_counts: Mapping[str, NDArray[np.float64]]) -> None:
    """Refuse a plan whose backbone or δ DP-SGD cannot work with, before anybody trains.

    Args:
        training_counts: training clinic → declared training cells per class [C].

    Raises:
        SettingError: naming the backbone or the clinic.
    """
    if study.privacy.mode == "none":
        return
    check_backbone(build_model(study.model, study.head_rows, seed=0).train(), study.model.backbone)
    for clinic, counts in training_counts.items():
        check_delta(study.privacy, round(float(counts.sum())), clinic)


def privacy_spent(study: StudyConfig, spent: Mapping[str, float]) -> dict[str, Any] | None:
    """For metrics.json: the plan's budget and the ε that each clinic stated last; None without DP-SGD."""
    if study.privacy.mode == "none":
        return None
    return {**study.privacy.model_dump(mode="json"), "spent": dict(spent)}
