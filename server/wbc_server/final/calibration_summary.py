"""From calibration counts to the figures of metrics.json: each clinic's, and those of clinics' counts added up.

`before` is temperature 1, `after` the temperature fitted on the training clinics' validation cells. Conformal sets use
the threshold of those same cells at temperature 1; what they cover at another clinic is measured, not promised. The
prior-shift correction is a secondary figure: it uses the measured cells' own mix, unlabelled.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import reduce
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wbc_common.calibration import EDGES, ONE, CalibrationCounts, aurc, classwise_ece
from wbc_common.confusion import accuracy, balanced_accuracy, macro_f1, wilson_interval
from wbc_common.study import StudyConfig
from wbc_common.wire import Evaluation
from wbc_server.exchange.participation import Roster
from wbc_server.final.measurement import Fitted


def summarise_calibration(
    study: StudyConfig, roster: Roster, final: Mapping[str, Evaluation], fitted: Fitted | None
) -> dict[str, Any] | None:
    """The `calibration` of metrics.json; None where the plan wants none."""
    if fitted is None:
        return None
    measured = {clinic: found for clinic, found in final.items() if found.calibration is not None}

    def pooled(clinics: tuple[str, ...]) -> dict[str, Any] | None:
        parts = [measured[clinic].calibration for clinic in clinics if clinic in measured]
        counts = [part for part in parts if part is not None and part.num_cells > 0]
        return _figures(reduce(add, counts), fitted) if counts else None

    return {
        "temperature": fitted.temperature,
        "fitted_on_cells": fitted.num_cells,
        "coverage_aimed": study.evaluation.coverage,
        "conformal_threshold": _threshold(fitted),
        "held_out": pooled(roster.held_out),
        "in_domain": pooled(roster.train),
        "clinics": {clinic: _clinic(study, found, fitted) for clinic, found in sorted(measured.items())},
    }


def _clinic(study: StudyConfig, found: Evaluation, fitted: Fitted) -> dict[str, Any] | None:
    counts = found.calibration
    if counts is None or found.shifted is None or counts.num_cells == 0:
        return None
    by_class = counts.positives[0]  # [C, F]
    covered = {
        name: _covered(by_class[row], fitted) for row, name in enumerate(study.classes.classes) if by_class[row].any()
    }
    return {**_figures(counts, fitted), "coverage_by_class": covered, "prior_shift_corrected": _rates(found.shifted)}


def _figures(counts: CalibrationCounts, fitted: Fitted) -> dict[str, Any]:
    def at_each(figure: Callable[[int], float]) -> dict[str, float | None]:
        return {name: _finite(figure(place)) for place, name in enumerate(("before", "after"))}

    places, cells = (ONE, fitted.place), counts.num_cells
    return {
        "cells": cells,
        "ece": at_each(lambda t: classwise_ece(counts.cells[t], counts.positives[t], counts.mass[t])),
        "nll": at_each(lambda t: float(counts.nll[places[t]]) / cells),
        "brier": at_each(lambda t: float(counts.brier[places[t]]) / cells),
        "aurc": at_each(lambda t: aurc(counts.confidence[t], counts.correct[t])),
        "coverage": _covered(counts.positives[0].sum(axis=0), fitted),
        "mean_set_size": _set_size(counts, fitted),
    }


def _covered(true_class: NDArray[np.int64], fitted: Fitted) -> dict[str, float | None] | None:
    """Share of cells [F] whose true class is in their set, with Wilson's interval."""
    if fitted.threshold_bin is None:
        return None
    interval = wilson_interval(int(true_class[fitted.threshold_bin :].sum()), int(true_class.sum()))
    return {name: _finite(value) for name, value in asdict(interval).items()}


def _set_size(counts: CalibrationCounts, fitted: Fitted) -> float | None:
    if fitted.threshold_bin is None:
        return None
    return float(counts.cells[0, :, fitted.threshold_bin :].sum()) / counts.num_cells


def _threshold(fitted: Fitted) -> float | None:
    """The probability from which on a class is in the set."""
    if fitted.threshold_bin is None:
        return None
    return float(EDGES[fitted.threshold_bin - 1]) if fitted.threshold_bin > 0 else 0.0


def _rates(confusion: NDArray[np.int64]) -> dict[str, float | None]:
    rates = {"macro_f1": macro_f1, "balanced_accuracy": balanced_accuracy, "accuracy": accuracy}
    return {name: _finite(float(rate(confusion))) for name, rate in rates.items()}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
