"""The usual local training: the global model, this clinic's cells, the plan's loss.

A pure function of (plan, round, clinic, received model, cells): every random number comes from seeds of these names
and the optimiser starts anew each round, so nothing at the clinic has to survive between rounds.
"""

import math

import numpy as np
import torch
from torch import Tensor

from wbc_client.dataset.cell_set import CellSet
from wbc_client.losses import AlignmentAnchors, DomainAwareLoss, anchors_from_sums, imbalance_of
from wbc_client.training.course import Course, take_course
from wbc_client.training.rehearsal import RehearsedLoss, with_rehearsal
from wbc_client.training.virtual_stains import VirtualStains
from wbc_common.models import Network
from wbc_common.seeds import torch_generator
from wbc_common.study import LossSettings, StudyConfig, TrainingSettings
from wbc_common.wire import ClassSums

SumPair = tuple[ClassSums, ClassSums]


def train_locally(
    model: Network,
    cells: CellSet,
    study: StudyConfig,
    *,
    clinic: str,
    round_number: int,
    sums: SumPair | None,
    stains: VirtualStains | None = None,
) -> dict[str, float]:
    """Train a received model on one clinic's training cells, in place.

    Args:
        model: the global model, on the device to train on.
        cells: training cells, N ≥ 1.
        sums: class sums (own, total) under the received model; None leaves the alignment term out.
        stains: those of the federation, for augmentation "federated-stain".

    Returns:
        Mean loss terms of the last epoch.
    """
    loss = build_loss(model, cells, study.loss, sums)
    course = round_course(study, clinic=clinic, round_number=round_number, stains=stains)
    if not study.training.rehearsal:
        return take_course(model, cells, course, lambda features, logits, batch: loss(features, logits, batch.allowed))
    generator = torch_generator(study.seed, "rehearsal", clinic, round_number)
    both = with_rehearsal(cells, study, generator)
    return take_course(model, both, course, RehearsedLoss(loss, len(cells), both.drawn_rows))


def round_course(study: StudyConfig, *, clinic: str, round_number: int, stains: VirtualStains | None) -> Course:
    """How a clinic trains in a round."""
    return Course(
        study.training,
        rate=round_rate(study, round_number),
        epochs=study.training.local_epochs,
        generator=torch_generator(study.seed, "training", clinic, round_number),
        proximal_weight=study.loss.proximal_weight,
        stains=stains,
    )


def learning_rate(training: TrainingSettings, round_number: int, rounds: int) -> float:
    """The rate of a round: half a cosine over the study's rounds (Loshchilov and Hutter 2017), or constant."""
    if training.schedule == "constant":
        return training.learning_rate
    return training.learning_rate * 0.5 * (1 + math.cos(math.pi * (round_number - 1) / rounds))


def round_rate(study: StudyConfig, round_number: int) -> float:
    """The rate of a round of a study: head-only rounds go through the schedule anew, among themselves."""
    if not study.trains_head_only(round_number):
        return learning_rate(study.training, round_number, study.rounds)
    head_only = study.training.head_only_rounds
    return learning_rate(study.training, round_number - (study.rounds - head_only), head_only)


def build_loss(model: Network, cells: CellSet, settings: LossSettings, sums: SumPair | None) -> DomainAwareLoss:
    """The plan's loss under the cells' class counts, guided by the head as received; without `sums` nothing aligns."""
    device = model.head.weight.device
    counts = torch.from_numpy(cells.class_counts()).to(device, torch.float32)
    head = (model.head.weight.detach().clone(), model.head.bias.detach().clone())
    return DomainAwareLoss(
        settings=settings,
        classify=imbalance_of(counts, settings, model.rows),
        anchors=_anchors(sums, settings, device),
        frozen_head=head,
    )


def _anchors(sums: SumPair | None, settings: LossSettings, device: torch.device) -> AlignmentAnchors | None:
    if sums is None:
        return None
    own, total = sums

    def tensor(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(device, torch.float32)

    return anchors_from_sums(
        tensor(total.sums), tensor(total.counts), tensor(own.sums), tensor(own.counts), settings.alignment_min_cells
    )
