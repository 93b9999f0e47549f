"""Predicting for a known case mix: logits + τ·log π_target, put into the head's bias (docs/method.md §1).

Training never sees it: the global model stays as it is, and the model that clinics evaluate and that is exported gets
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
    """The model that predicts under the plan's case mix; the model itself where plain logits are to predict.

    Args:
        model: the global model's arrays.
        class_counts: N_c of the training federation, float64 [C].
    """
    if study.evaluation.prediction_prior == "balanced":
        return model
    offset = study.evaluation.prediction_tau * np.log(target_prior(study, class_counts))
    bias = model["head.bias"]
    return {**model, "head.bias": (bias + study.head_rows.repeated(offset)).astype(bias.dtype)}


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

    A loss adjusted by τ·log π leaves logits that assume π^(1−τ): equal shares at τ = 1, the training federation's at
    τ = 0, as every other loss does. It is the prior of a row of the head: a class of m rows, of π_c/m each, has m^τ
    more. `prediction_prior` tilts that by π_target to the power of its own strength.
    """
    num_classes, kappa = len(class_counts), study.loss.kappa
    training = (class_counts + kappa / num_classes) / (class_counts.sum() + kappa)
    tau = study.loss.tau if study.loss.classification == "logit-adjusted" else 0.0
    assumed: NDArray[np.float64] = training ** (1 - tau) * study.head_rows.per_class**tau
    if study.evaluation.prediction_prior != "balanced":
        assumed = assumed * target_prior(study, class_counts) ** study.evaluation.prediction_tau
    return np.asarray(assumed / assumed.sum())
