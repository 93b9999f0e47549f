"""What a clinic does when asked: one function per kind of task, from an opened clinic and a task to a reply.

Whether the approved plan foresees the task is checked before (`wbc_client.agreement`). Who may do what stands here, so
that it holds whoever asks: a held-out clinic neither trains nor contributes sums.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from wbc_client.clinic import Clinic
from wbc_client.dataset.cell_set import SPLITS, CellSet
from wbc_client.device import memory_of
from wbc_client.evaluation.measuring import measure, measure_personal_head
from wbc_client.features import sum_stain
from wbc_client.sharing import own_share, sums_to_share
from wbc_client.state.error_feedback import compensate
from wbc_client.training.round import train_round
from wbc_client.training.virtual_stains import VirtualStains, virtual_stains
from wbc_common.errors import DataError, MessageError, PolicyError
from wbc_common.stain_sums import StainSums
from wbc_common.wire import Arrays, Description, Evaluation, EvaluationSplit, Reply, RoundReply, Task, TaskKind


def perform(clinic: Clinic, task: Task) -> Reply:
    """The reply to a task.

    Raises:
        PolicyError: a held-out clinic is asked to train.
        MessageError: the task lacks the model.
        DataError: there is no cell to do it with.
        DeviceError: the device has too little memory.
    """
    with memory_of(clinic.device):
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


def train(clinic: Clinic, task: Task) -> RoundReply:
    """Measure the received model where the plan says so, then train it on this clinic's training cells."""
    _check_trains(clinic)
    arrays, stains = _model_of(task), _stains_of(clinic, task)
    cells = _some(clinic.cells.part("train"), "training")
    evaluation = None
    if clinic.study.evaluates(task.round_number - 1):
        evaluation = measure(clinic, clinic.cells.part("val"), task, _predicting(task))
    sums = sums_to_share(clinic, cells, arrays, task.round_number)
    update = train_round(clinic, cells, task, arrays, stains, own_share(clinic, task))
    return RoundReply(compensate(clinic, update, task.round_number), evaluation, sums)


def evaluate(clinic: Clinic, task: Task) -> Evaluation:
    """Measure the received model on one split, or on all cells."""
    found = measure(clinic, _split(clinic.cells, task.split), task, _model_of(task))
    if task.split != "test" or clinic.site.clinic not in clinic.study.personal.clinics:
        return found
    training = _some(clinic.cells.part("train"), "training")
    personal = measure_personal_head(
        clinic, training, clinic.cells.part("test"), _model_of(task), _stains_of(clinic, task)
    )
    return replace(found, personal=personal)


_PERFORM: Mapping[TaskKind, Callable[[Clinic, Task], Reply]] = {
    "describe": describe,
    "stain-sums": stain_sums,
    "train": train,
    "evaluate": evaluate,
}


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


def _predicting(task: Task) -> Arrays:
    """The received model with the bias that it predicts with under the plan's case mix."""
    arrays = _model_of(task)
    return arrays if task.prediction_bias is None else {**arrays, "head.bias": task.prediction_bias}


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
