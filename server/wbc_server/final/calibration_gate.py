"""The gate for calibration counts: they must be those of the cells behind the confusion matrix that came with them.

Temperature and threshold are fitted to sums over clinics, so each sum is held to what so many cells can give; else one
clinic chooses them for all. Entries are looked at before they are added: a sum of int64 may wrap around. With β = 1/T a
cell's NLL is log Σ_c e^{β·z_c} − β·z_y: log C at β = 0, convex in β, and at β = 1 as its probability's bin says.
"""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from wbc_common.calibration import EDGES, NUM_BINS, ONE, TEMPERATURES, CalibrationCounts
from wbc_common.confusion import support
from wbc_common.errors import UpdateRefused
from wbc_common.wire.messages import Evaluation

_TOLERANCE = 1e-6  # relative; probabilities of many cells are summed
# Mean probabilities over stain draws are clamped at the smallest float32 before their logarithm (wbc_client), so logits
# differ by no more. Plain logits are not clamped, but a network that is this far apart on average has diverged.
_WIDEST_GAP = -math.log(np.finfo(np.float32).tiny)  # 87.3
_MOST_BRIER = 2.0  # a cell's (p_c − [c = y])² summed: all probability on one wrong class
_REMEDY = "check that the clinic runs the approved plan and the same wbc-fl version as the coordinator"


def check_calibration(evaluation: Evaluation) -> None:
    """Refuse calibration counts, or a prior-shift confusion matrix, that contradict the confusion matrix.

    Raises:
        UpdateRefused: naming what does not fit.
    """
    counts, confusion = evaluation.calibration, evaluation.confusion
    if counts is None or evaluation.shifted is None:
        raise UpdateRefused("an evaluation without the calibration counts that were asked for", remedy=_REMEDY)
    if evaluation.shifted.shape != confusion.shape:
        raise UpdateRefused(f"the shifted matrix has shape {evaluation.shifted.shape}", remedy=_REMEDY)
    faults = _shapes(counts, len(confusion)) or _entries(counts, evaluation.shifted, int(confusion.sum()))
    faults = faults or [*_numbers(counts, confusion, evaluation.shifted)] or [*_scores(counts)]
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


def _entries(counts: CalibrationCounts, shifted: NDArray[np.int64], total: int) -> list[str]:
    """Entries that no part of `total` cells can be."""
    names = ("cells", "positives", "confidence", "correct")
    parts = {**{name: getattr(counts, name) for name in names}, "the shifted matrix": shifted}
    bad = [name for name, part in parts.items() if part.min(initial=0) < 0 or part.max(initial=0) > total]
    faults = [f"{name}: an entry is not from 0 to {total}" for name in bad]
    sums = np.concatenate([counts.nll, counts.brier, counts.mass.ravel()])
    return faults if np.isfinite(sums).all() and (sums >= 0).all() else [*faults, "sums are not finite numbers from 0"]


def _numbers(counts: CalibrationCounts, confusion: NDArray[np.int64], shifted: NDArray[np.int64]) -> Iterator[str]:
    total = confusion.sum()
    checks = {
        "positives exceed cells": (counts.positives <= counts.cells).all(),
        "correct cells exceed cells": (counts.correct <= counts.confidence).all(),
        f"a class's bins do not hold the {total} cells": (counts.cells.sum(axis=2) == total).all(),
        "positives are not the cells of their class": (counts.positives.sum(axis=2) == support(confusion)).all(),
        "confidence does not hold the cells": (counts.confidence.sum(axis=1) == total).all(),
        "probabilities exceed their cells": (counts.mass <= counts.cells * (1 + _TOLERANCE)).all(),
        "probabilities do not sum to the cells": np.allclose(counts.mass.sum(axis=(1, 2)), total, rtol=_TOLERANCE),
        "the shifted matrix is of other cells": (support(shifted) == support(confusion)).all(),
    }
    yield from (fault for fault, holds in checks.items() if not holds)


def _scores(counts: CalibrationCounts) -> Iterator[str]:
    """What NLL and Brier score cannot be for these cells; all counts have passed."""
    cells, slack = counts.num_cells, _TOLERANCE * (1 + counts.num_cells)
    at_zero = cells * math.log(counts.cells.shape[1])
    if (counts.brier > _MOST_BRIER * cells + slack).any():
        yield f"a Brier score is above {_MOST_BRIER:g} a cell"
    if (counts.nll > at_zero + cells * _WIDEST_GAP / TEMPERATURES + slack).any():
        yield f"an NLL is above log C + {_WIDEST_GAP:.1f}/T a cell"
    true_class = counts.positives[0].sum(axis=0)  # [F]
    least = true_class @ -np.log(np.append(EDGES, 1.0))
    most = true_class[1:] @ -np.log(EDGES) + true_class[0] * (_WIDEST_GAP + math.log(counts.cells.shape[1]))
    if not least - slack <= counts.nll[ONE] <= most + slack:
        yield "the NLL at temperature 1 is not that of the bins"
    beta = np.append(0.0, 1 / TEMPERATURES[::-1])  # ascending
    slopes = np.diff(np.append(at_zero, counts.nll[::-1])) / np.diff(beta)
    if (np.diff(slopes) < -slack).any():
        yield "the NLL is not convex in 1/T"
