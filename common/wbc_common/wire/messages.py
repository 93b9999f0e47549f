"""What coordinator and clinic say to each other, as plain data.

One task goes to a clinic (`Task`); one of four replies comes back: `Description`, `StainSums`, `RoundReply` or
`Evaluation`. All of a reply is sums and counts, so that it adds over clinics. A round is one message each way: with its
update a clinic says how the model that it received does on its validation cells, and the class sums under that model.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wbc_common.calibration import CalibrationCounts
from wbc_common.settings.transport import UpdatePrecision
from wbc_common.stain_sums import StainSums

TaskKind = Literal["describe", "stain-sums", "train", "evaluate"]
EvaluationSplit = Literal["val", "test", "all"]
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class ClassSums:
    """Sums of unit-norm features per class, S_{k,c}: `sums` float64 [C, D], `counts` float64 [C]."""

    sums: NDArray[np.float64]
    counts: NDArray[np.float64]

    def __add__(self, other: "ClassSums") -> "ClassSums":
        return ClassSums(self.sums + other.sums, self.counts + other.counts)


@dataclass(frozen=True)
class CalibrationRequest:
    """What an evaluation shall count beside the confusion matrix.

    Attributes:
        temperature: at which bins are counted, beside 1.
        source_prior: the case mix float64 [C] that the model's posteriors assume.
    """

    temperature: float
    source_prior: NDArray[np.float64]


@dataclass(frozen=True)
class Task:
    """What the coordinator asks of a clinic.

    Attributes:
        kind: which reply is asked for.
        study_hash: the plan it belongs to.
        round_number: from 1; 0 before the first round.
        model: the global model's arrays; None for "describe".
        totals: class sums over training clinics, as they came with the round before; None while nothing aligns.
        split: which cells to evaluate.
        replicates: bootstrap draws wanted with an evaluation.
        averaged: average predictions over the plan's stain draws, as the last measurements do; rounds look once.
        stain: stain sums over all training clinics; None where the plan does not pool them.
        calibration: counts of calibration wanted with an evaluation; None for none.
        prediction_bias: head bias float32 [C] to measure the received model with; None for its own.
    """

    kind: TaskKind
    study_hash: str
    round_number: int = 0
    model: Arrays | None = None
    totals: ClassSums | None = None
    split: EvaluationSplit = "val"
    replicates: int = 0
    averaged: bool = False
    stain: StainSums | None = None
    calibration: CalibrationRequest | None = None
    prediction_bias: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Description:
    """Who answers: clinic name, and class counts float64 [3, C] of train, val and test cells."""

    clinic: str
    class_counts: NDArray[np.float64]


@dataclass(frozen=True)
class Update:
    """What training changed: `delta` float32 arrays, training `class_counts` [C], mean losses, cells seen, seconds.

    `epsilon` is the privacy budget that the clinic has spent on this plan so far; None without DP-SGD.
    `precision` is what convolutions computed in at the clinic, "fp32" or "bf16". `sent_as` is what `delta` is rounded
    to on its way; it is read back as float32.
    """

    delta: Arrays
    class_counts: NDArray[np.float64]
    losses: dict[str, float]
    num_cells: int
    seconds: float
    epsilon: float | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    sent_as: UpdatePrecision = "fp32"


@dataclass(frozen=True)
class Evaluation:
    """Counts of an evaluation.

    Attributes:
        confusion: int64 [C, C], rows true, columns predicted, of cells with an exact label.
        replicates: int64 [R, C, C], the same for bootstrap draws of patients; R may be 0.
        coarse: int64 [2], cells with a coarse label, and those predicted into a class that the label allows.
        calibration: counts in shared bins, where they were asked for.
        shifted: int64 [C, C], the confusion matrix after the prior-shift correction on site, with `calibration`.
        personal: int64 [C, C], the same cells under the clinic's personal head, where the plan gives it one.
    """

    confusion: NDArray[np.int64]
    replicates: NDArray[np.int64]
    coarse: NDArray[np.int64]
    calibration: CalibrationCounts | None = None
    shifted: NDArray[np.int64] | None = None
    personal: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class RoundReply:
    """All that a training clinic says in a round.

    Attributes:
        update: what its training changed.
        evaluation: counts of the received model on its validation cells, where the plan measures that model.
        sums: class sums of its training cells under the received model, where the next round aligns.
    """

    update: Update
    evaluation: Evaluation | None = None
    sums: ClassSums | None = None


Reply = Description | StainSums | RoundReply | Evaluation
