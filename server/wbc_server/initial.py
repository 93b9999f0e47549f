"""The model before round 1, and its share in the exported one.

    θ_export = (1 − s)·θ_selected + s·θ_initial     s = evaluation.initial_share

WiSE-FT (Wortsman et al., CVPR 2022). Training moves the model towards the training clinics' domains and away from what
its initial weights knew of others; a mean of both, near enough to each other for a mean to work, keeps part of either.
It is made once, at the end, from what the coordinator has: no message more.
"""

import numpy as np

from wbc_common.models import build_model, model_arrays
from wbc_common.seeds import derive_seed
from wbc_common.study import StudyConfig
from wbc_common.wire import Arrays


def initial_model(study: StudyConfig) -> Arrays:
    """The model before round 1: seeded by the study, or the weights it names."""
    return model_arrays(build_model(study.model, len(study.classes), derive_seed(study.seed, "model")))


def with_initial_share(model: Arrays, study: StudyConfig) -> Arrays:
    """The model mixed with the initial one, as the plan wants it; the model itself where that share is 0."""
    share = study.evaluation.initial_share
    if share == 0:
        return model
    initial = initial_model(study)
    return {key: _mixed(value, initial[key], share) for key, value in model.items()}


def _mixed(value: np.ndarray, initial: np.ndarray, share: float) -> np.ndarray:
    if not np.issubdtype(value.dtype, np.floating):
        return value
    mean = (1 - share) * value.astype(np.float64) + share * initial.astype(np.float64)
    return mean.astype(value.dtype)
