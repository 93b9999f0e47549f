"""The gate for calibration counts: they must be those of the cells behind the confusion matrix that came with them."""

import numpy as np

from wbc_common.calibration import NUM_BINS, TEMPERATURES, CalibrationCounts
from wbc_common.confusion import support
from wbc_common.errors import UpdateRefused
from wbc_common.wire.messages import Evaluation

_TOLERANCE = 1e-6  # relative; probabilities of many cells are summed
_REMEDY = "check that the clinic runs the approved plan and the same wbc-fl version as the coordinator"


def check_calibration(evaluation: Evaluation) -> None:
    """Refuse calibration counts, or a prior-shift confusion matrix, that contradict the confusion matrix.

    Raises:
        UpdateRefused: naming what does not fit.
    """
    counts, confusion = evaluation.calibration, evaluation.confusion
    if counts is None or evaluation.shifted is None:
        raise UpdateRefused("an evaluation without the calibration counts that were asked for", remedy=_REMEDY)
    faults = [*_shapes(counts, len(confusion))] or [*_numbers(counts, evaluation)]
    if faults:
        raise UpdateRefused(f"calibration counts: {'; '.join(faults)}", remedy=_REMEDY)


def _shapes(counts: CalibrationCounts, num_classes: int) -> list[str]:
    grid, table, row = (len(TEMPERATURES),), (2, num_classes, NUM_BINS), (2, NUM_BINS)
    expected = {"nll": grid, "brier": grid, "cells": table, "positives": table, "mass": table, "confidence": row}
    expected["correct"] = row
    return [
        f"{name} has shape {getattr(counts, name).shape}, expected {shape}"
        for name, shape in expected.items()
        if getattr(counts, name).shape != shape
    ]


def _numbers(counts: CalibrationCounts, evaluation: Evaluation) -> list[str]:
    confusion, shifted = evaluation.confusion, evaluation.shifted
    total = confusion.sum()
    sums = np.concatenate([counts.nll, counts.brier, counts.mass.ravel()])
    checks = {
        "sums are not finite numbers from 0": bool(np.isfinite(sums).all() and (sums >= 0).all()),
        "counts are negative": min(part.min() for part in (counts.positives, counts.correct)) >= 0,
        "positives exceed cells": bool((counts.positives <= counts.cells).all()),
        "correct cells exceed cells": bool((counts.correct <= counts.confidence).all()),
        f"a class's bins do not hold the {total} cells": bool((counts.cells.sum(axis=2) == total).all()),
        "positives are not the cells of their class": bool((counts.positives.sum(axis=2) == support(confusion)).all()),
        "confidence does not hold the cells": bool((counts.confidence.sum(axis=1) == total).all()),
        "probabilities do not sum to the cells": np.allclose(counts.mass.sum(axis=(1, 2)), total, rtol=_TOLERANCE),
        "the shifted matrix is of other cells": shifted is not None
        and shifted.shape == confusion.shape
        and bool((shifted >= 0).all() and (support(shifted) == support(confusion)).all()),
    }
    return [fault for fault, holds in checks.items() if not holds]
