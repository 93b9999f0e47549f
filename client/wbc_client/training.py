"""Local training: the global model, this clinic's cells, the plan's loss; out comes what changed.

A pure function of (plan, round, clinic, received model, cells): every random number comes from seeds of these names
and the optimiser starts anew each round, so nothing at the clinic has to survive between rounds.
"""

import math
import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from wbc_client.augmentation import augment
from wbc_client.dataset.cell_set import CellSet
from wbc_client.device import as_input
from wbc_client.losses import (
    AlignmentAnchors,
    DomainAwareLoss,
    LossTerms,
    anchors_from_sums,
    imbalance_of,
    proximal_term,
)
from wbc_client.precision import Precision, computing_in, resolve_precision
from wbc_client.virtual_stains import VirtualStains
from wbc_common.appearance import normalise
from wbc_common.models import Network, model_arrays
from wbc_common.seeds import torch_generator
from wbc_common.study import LossSettings, StudyConfig, TrainingSettings
from wbc_common.wire import Arrays, ClassSums, Update

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
) -> Update:
    """Train a received model on one clinic's training cells.

    Args:
        model: the global model, on the device to train on; changed in place.
        cells: training cells, N ≥ 1.
        sums: class sums (own, total) under the received model; None leaves the alignment term out.
        stains: those of the federation, for augmentation "federated-stain".

    Returns:
        The update: parameters after minus before, the clinic's class counts, and mean loss terms of the last epoch.
    """
    started = time.perf_counter()
    received = model_arrays(model)
    device = model.head.weight.device
    loss = build_loss(model, cells, study.loss, sums)
    generator = torch_generator(study.seed, "training", clinic, round_number)
    optimizer = build_optimizer(model, study.training, round_rate(study, round_number))
    precision = resolve_precision(study.training.precision, device)
    anchor = [parameter.detach().clone() for parameter in model.parameters()]
    model.train()
    for _ in range(study.training.local_epochs):
        terms = [
            _step(model, optimizer, loss, anchor, images=images, allowed=allowed, precision=precision)
            for images, allowed in _batches(cells, study.training, generator, device, stains)
        ]
    return Update(
        delta=_difference(model_arrays(model), received),
        class_counts=cells.class_counts(),
        losses=_mean_terms(terms),
        num_cells=len(cells),
        seconds=time.perf_counter() - started,
        precision=precision,
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
        classify=imbalance_of(counts, settings),
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


def build_optimizer(model: nn.Module, training: TrainingSettings, rate: float) -> torch.optim.Optimizer:
    """The plan's optimiser over a network's parameters, or over those of its head."""
    if training.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=training.weight_decay)
    return torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=training.weight_decay, fused=True)


def _batches(
    cells: CellSet,
    training: TrainingSettings,
    generator: torch.Generator,
    device: torch.device,
    stains: VirtualStains | None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Augmented, normalised images [B, 3, H, W] and allowed classes bool [B, C], every cell once, in random order."""
    order = torch.randperm(len(cells), generator=generator)
    for start in range(0, len(order), training.batch_size):
        index = order[start : start + training.batch_size]
        images = augment(cells.images[index], training.augmentation, generator, stains)
        yield as_input(normalise(images), device), cells.allowed[index].to(device)


def _step(
    model: Network,
    optimizer: torch.optim.Optimizer,
    loss: DomainAwareLoss,
    anchor: list[Tensor],
    *,
    images: Tensor,
    allowed: Tensor,
    precision: Precision,
) -> Tensor:
    """One gradient step; returns the four loss terms [4], detached. Head and losses compute in fp32."""
    with computing_in(precision, images.device):
        features = model.features(images)
    features = features.float()
    terms: LossTerms = loss(features, model.head(features), allowed)
    total = terms.total
    if loss.settings.proximal_weight > 0:
        total = total + loss.settings.proximal_weight * proximal_term(model.parameters(), anchor)
    optimizer.zero_grad(set_to_none=True)
    total.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return torch.stack([total, *terms[1:]]).detach()


def _mean_terms(terms: list[Tensor]) -> dict[str, float]:
    means = torch.stack(terms).mean(dim=0).tolist()
    return dict(zip(("loss", "classification", "alignment", "guide"), means, strict=True))


def _difference(now: Arrays, before: Arrays) -> Arrays:
    return {key: now[key] - before[key] for key in before}
