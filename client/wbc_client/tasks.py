"""What a clinic does when asked: one function per kind of task, from an opened clinic and a task to a reply.

The rules of participation stand here too, so that they hold whoever asks: only the approved plan, and a held-out clinic
neither trains nor contributes sums.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from wbc_client.calibration import correct_prior_shift, count_calibration
from wbc_client.clinic import Clinic
from wbc_client.dataset.cell_set import SPLITS, CellSet
from wbc_client.evaluation import count
from wbc_client.features import sum_stain
from wbc_client.head_training import train_head
from wbc_client.personal import fit_head, keep_head
from wbc_client.privacy_budget import plan_spending, spend
from wbc_client.private_training import train_privately
from wbc_client.stain_averaging import predict_over_stains
from wbc_client.training import train_locally
from wbc_client.virtual_stains import VirtualStains, virtual_stains
from wbc_common.confusion import confusion_matrix
from wbc_common.errors import DataError, MessageError, PolicyError
from wbc_common.privacy import check_backbone, check_delta
from wbc_common.stain_sums import StainSums
from wbc_common.wire import (
    Arrays,
    CalibrationRequest,
    ClassSums,
    Description,
    Evaluation,
    EvaluationSplit,
    Reply,
    Task,
    TaskKind,
    Update,
)


def perform(clinic: Clinic, task: Task) -> Reply:
    """The reply to a task.

    Raises:
        PolicyError: the task belongs to another plan, or asks a held-out clinic to train.
        MessageError: the task lacks the model.
        DataError: there is no cell to do it with.
    """
    _check_plan(clinic, task)
    return _PERFORM[task.kind](clinic, task)


def describe(clinic: Clinic, task: Task) -> Description:
    """Name and class counts of each split."""
    counts = np.stack([clinic.cells.part(split).class_counts() for split in SPLITS])
    return Description(clinic.site.clinic, counts)


def stain_sums(clinic: Clinic, task: Task) -> StainSums:
    """Sums of the stain statistics of the training cells."""
    _check_trains(clinic)
    if not clinic.study.pools_stain:
        raise PolicyError("the plan pools no stain sums", remedy="set training.augmentation = 'federated-stain' in it")
    return sum_stain(_some(clinic.cells.part("train"), "training"))


def class_sums(clinic: Clinic, task: Task) -> ClassSums:
    """Sums of features per class of the training cells, under the received model."""
    _check_trains(clinic)
    return clinic.class_sums(_model_of(task))


def train(clinic: Clinic, task: Task) -> Update:
    """Train on this clinic's training cells."""
    _check_trains(clinic)
    arrays = _model_of(task)
    if clinic.study.privacy.mode == "dp-sgd":
        return _train_privately(clinic, arrays, task.round_number)
    stains = _stains_of(clinic, task)
    if clinic.study.trains_head_only(task.round_number):
        return train_head(
            clinic.model(arrays),
            _some(clinic.cells.part("train"), "training"),
            clinic.study,
            clinic=clinic.site.clinic,
            round_number=task.round_number,
            stains=stains,
        )
    sums = None if task.totals is None else (clinic.class_sums(arrays), task.totals)
    return train_locally(
        clinic.model(arrays),
        _some(clinic.cells.part("train"), "training"),
        clinic.study,
        clinic=clinic.site.clinic,
        round_number=task.round_number,
        sums=sums,
        stains=stains,
    )


def _train_privately(clinic: Clinic, arrays: Arrays, round_number: int) -> Update:
    """Pay for the round first, then train; a budget that is spent stops it here."""
    study, cells = clinic.study, _some(clinic.cells.part("train"), "training")
    model = clinic.model(arrays)
    check_backbone(model, study.model.backbone)
    check_delta(study.privacy, len(cells), clinic.site.clinic)
    spending = plan_spending(
        study.privacy,
        num_cells=len(cells),
        batch_size=study.training.batch_size,
        epochs=study.training.local_epochs,
        rounds=study.rounds,
    )
    epsilon = spend(clinic.site.state_dir, study.hash, spending, study.privacy)
    return train_privately(model, cells, study, round_number=round_number, spending=spending, epsilon=epsilon)


def evaluate(clinic: Clinic, task: Task) -> Evaluation:
    """Measure the received model on one split, or on all cells."""
    settings = clinic.study.evaluation
    cells = _split(clinic.cells, task.split)
    logits = predict_over_stains(
        clinic.model(_model_of(task)),
        cells.images,
        clinic.device,
        draws=settings.stain_draws,
        clinic=clinic.site.clinic,
        stains=_stains_of(clinic, task),
    )
    replicates = min(task.replicates, settings.bootstrap_replicates)
    found = count(logits, cells, replicates=replicates, clinic=clinic.site.clinic)
    if task.split == "test" and clinic.site.clinic in clinic.study.personal.clinics:
        found = replace(found, personal=_measure_personal_head(clinic, task, cells))
    if task.calibration is None or not settings.calibration:
        return found
    return _with_calibration(found, logits, cells, task.calibration)


def _measure_personal_head(clinic: Clinic, task: Task, cells: CellSet) -> NDArray[np.int64]:
    """Fit this clinic's own head, keep it here, and count its confusions on the cells."""
    model, stains, name = clinic.model(_model_of(task)), _stains_of(clinic, task), clinic.site.clinic
    fit_head(model, _some(clinic.cells.part("train"), "training"), clinic.study, clinic=name, stains=stains)
    keep_head(model, clinic.site.state_dir, clinic.study)
    draws = clinic.study.evaluation.stain_draws
    logits = predict_over_stains(model, cells.images, clinic.device, draws=draws, clinic=name, stains=stains)
    return count(logits, cells, replicates=0, clinic=name).confusion


def _with_calibration(found: Evaluation, logits: Tensor, cells: CellSet, wish: CalibrationRequest) -> Evaluation:
    """Counts in bins of the exact cells; the case mix behind `shifted` is estimated from all cells, without labels."""
    if wish.source_prior.shape != (logits.shape[1],):
        raise MessageError("a source prior of another number of classes", remedy="run the same version at both sides")
    exact = cells.exact
    true, corrected = cells.labels[exact].numpy(), correct_prior_shift(logits, wish.source_prior)[exact].numpy()
    return replace(
        found,
        calibration=count_calibration(logits[exact], cells.labels[exact], wish.temperature),
        shifted=confusion_matrix(true, corrected, logits.shape[1]),
    )


_PERFORM: Mapping[TaskKind, Callable[[Clinic, Task], Reply]] = {
    "describe": describe,
    "stain-sums": stain_sums,
    "class-sums": class_sums,
    "train": train,
    "evaluate": evaluate,
}


def _check_plan(clinic: Clinic, task: Task) -> None:
    if task.study_hash != clinic.study.hash:
        raise PolicyError(
            f"the coordinator works by plan {task.study_hash[:12]}, this clinic approved {clinic.study.hash[:12]}",
            remedy="compare both study.toml files; approve the new plan, or have the coordinator return to the old one",
        )


def _check_trains(clinic: Clinic) -> None:
    if clinic.study.role(clinic.site.clinic) != "train":
        raise PolicyError(
            f"clinic {clinic.site.clinic} is held out and neither trains nor contributes sums",
            remedy="ask it to evaluate only, or change its role in a new study",
        )


def _model_of(task: Task) -> Arrays:
    if task.model is None:
        raise MessageError(f"task '{task.kind}' came without a model", remedy="run the same version at both sides")
    return task.model


def _stains_of(clinic: Clinic, task: Task) -> VirtualStains | None:
    """The federation's stains that came with a task, where the plan pools them."""
    if not clinic.study.pools_stain:
        return None
    if task.stain is None:
        raise MessageError(f"task '{task.kind}' came without stain sums", remedy="run the same version at both sides")
    return virtual_stains(task.stain, clinic.study.training.stain_inflation)


def _split(cells: CellSet, split: EvaluationSplit) -> CellSet:
    return cells if split == "all" else cells.part(split)


def _some(cells: CellSet, purpose: str) -> CellSet:
    if len(cells) == 0:
        raise DataError(f"no {purpose} cell at this clinic", remedy="check the splits of its manifest")
    return cells
