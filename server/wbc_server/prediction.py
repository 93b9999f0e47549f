"""Predicting for a known case mix: logits + τ·log π_target, put into the head's bias (docs/method.md §1).

Training never sees it: the global model stays balanced, and the model that clinics evaluate and that is exported gets
the offset. As the bias carries it, nothing but the model has to travel, and whoever uses the file predicts the same.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from wbc_common.errors import SettingError
from wbc_common.study import StudyConfig
from wbc_common.wire import Arrays


def check_counts(study: StudyConfig, training_counts: Mapping[str, NDArray[np.float64]]) -> None:
    """Refuse a prior with no cell behind it.

    Args:
        training_counts: training clinic → declared training cells per class [C].

    Raises:
        SettingError: naming the clinics.
    """
    empty = [clinic for clinic, counts in training_counts.items() if counts.sum() == 0]
    if empty and study.loss.classification != "cross-entropy":
        raise SettingError(
            f"loss.classification = '{study.loss.classification}' works on class counts, and {', '.join(empty)} "
            "declares no training cell",
            remedy="check that clinic's splits, or take it out of the study",
        )


def for_prediction(model: Arrays, study: StudyConfig, class_counts: NDArray[np.float64]) -> Arrays:
    """The model that predicts under the plan's case mix; the model itself where that is the balanced one.

    Args:
        model: the global model's arrays.
        class_counts: N_c of the training federation, float64 [C].
    """
    if study.evaluation.prediction_prior == "balanced":
        return model
    offset = study.evaluation.prediction_tau * np.log(target_prior(study, class_counts))
    bias = model["head.bias"]
    return {**model, "head.bias": (bias + offset).astype(bias.dtype)}


def target_prior(study: StudyConfig, class_counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """π_target [C]: shares of the plan's table, or of the training federation, with κ pseudo-cells as in L1.

    A table is of shares, so its pseudo-cells are counted against the federation's cells.
    """
    prior = study.evaluation.prediction_prior
    cells = class_counts
    if isinstance(prior, dict):
        shares = np.array([prior.get(name, 0.0) for name in study.classes.classes])
        cells = shares / shares.sum() * class_counts.sum()
    smoothed: NDArray[np.float64] = (cells + study.loss.kappa / len(cells)) / (cells.sum() + study.loss.kappa)
    return smoothed


def source_prior(study: StudyConfig, class_counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """The case mix [C] that the exported model's posteriors assume, for the prior-shift correction on site.

    Logit-adjusted training leaves posteriors under equal shares, which `prediction_prior` then tilts; other losses
    leave those of the training federation.
    """
    num_classes = len(class_counts)
    if study.loss.classification != "logit-adjusted" or study.loss.tau == 0:
        smoothed: NDArray[np.float64] = (class_counts + study.loss.kappa / num_classes) / (
            class_counts.sum() + study.loss.kappa
        )
        return smoothed
    if study.evaluation.prediction_prior == "balanced":
        return np.full(num_classes, 1 / num_classes)
    tilted: NDArray[np.float64] = target_prior(study, class_counts) ** study.evaluation.prediction_tau
    return np.asarray(tilted / tilted.sum())
