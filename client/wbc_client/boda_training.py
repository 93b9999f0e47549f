"""Centralised BoDA, the published method where one party holds every domain's cells (`wbc_client.losses.boda`).

For the bound that federated methods are compared with: prototypes of each (domain, class) are those of the received
model, computed once a round over all training cells, as the authors' code does once an epoch. No clinic of a federation
may train so, as it would need the prototypes of the others; the plan refuses more than one training clinic.
"""

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from wbc_client.augmentation import augment
from wbc_client.dataset.cell_set import CellSet
from wbc_client.features import all_features
from wbc_client.losses import boda_paper_loss, exact_labels, imbalance_of
from wbc_client.training import build_optimizer, round_rate
from wbc_client.virtual_stains import VirtualStains
from wbc_common.appearance import normalise
from wbc_common.errors import DataError
from wbc_common.models import Network, model_arrays
from wbc_common.seeds import torch_generator
from wbc_common.study import StudyConfig
from wbc_common.wire import Update


@dataclass(frozen=True)
class Prototypes:
    """Mean raw features float [M, C, D] and cells [M, C] of M domains; zeros where a domain has no cell of a class."""

    centroids: Tensor
    counts: Tensor


def train_boda(
    model: Network,
    cells: CellSet,
    study: StudyConfig,
    *,
    clinic: str,
    round_number: int,
    stains: VirtualStains | None = None,
) -> Update:
    """Train a received model on cells of several domains with L1 + w2·BoDA.

    Args:
        model: on the device to train on; changed in place.
        cells: training cells with `domain`.

    Raises:
        DataError: the cells do not say their domains.
    """
    if cells.domain is None:
        raise DataError(
            "loss.alignment = 'boda-paper' needs cells that say their domain, and these do not",
            remedy="use it through a bound of wbc-simulate compare, or set loss.alignment = 'leave-self-out'",
        )
    started, received = time.perf_counter(), model_arrays(model)
    terms = _train(model, cells, cells.domain, study, clinic, round_number=round_number, stains=stains)
    classification, alignment = terms.tolist()
    return Update(
        delta={key: value - received[key] for key, value in model_arrays(model).items()},
        class_counts=cells.class_counts(),
        losses={
            "loss": classification + study.loss.alignment_weight * alignment,
            "classification": classification,
            "alignment": alignment,
        },
        num_cells=len(cells),
        seconds=time.perf_counter() - started,
    )


def prototypes(features: Tensor, labels: Tensor, domain: Tensor, num_classes: int) -> Prototypes:
    """The prototypes of features [N, D]; `labels` int64 [N], −1 (coarse) left out; `domain` int64 [N] from 0."""
    num_domains = int(domain.max()) + 1
    exact = labels >= 0
    place = domain[exact] * num_classes + labels[exact]
    counts = torch.bincount(place, minlength=num_domains * num_classes)
    sums = features.new_zeros(num_domains * num_classes, features.shape[1]).index_add_(0, place, features[exact])
    centroids = sums / counts.clamp_min(1)[:, None]
    return Prototypes(centroids.view(num_domains, num_classes, -1), counts.view(num_domains, num_classes))


def _train(
    model: Network,
    cells: CellSet,
    domain: Tensor,
    study: StudyConfig,
    clinic: str,
    *,
    round_number: int,
    stains: VirtualStains | None,
) -> Tensor:
    """Mean classification and alignment terms [2] of the last epoch."""
    device = model.head.weight.device
    classify = imbalance_of(torch.from_numpy(cells.class_counts()).to(device, torch.float32), study.loss)
    anchors = prototypes(all_features(model, cells.images, device), cells.labels, domain, cells.allowed.shape[1])
    optimizer = build_optimizer(model, study.training, round_rate(study, round_number))
    generator = torch_generator(study.seed, "training", clinic, round_number)
    model.train()
    for _ in range(study.training.local_epochs):
        terms = []
        for index in torch.split(torch.randperm(len(cells), generator=generator), study.training.batch_size):
            images = augment(cells.images[index], study.training.augmentation, generator, stains)
            features = model.features(normalise(images).to(device))
            allowed = cells.allowed[index].to(device)
            alignment = _alignment(features, exact_labels(allowed), domain[index].to(device), anchors, study)
            classification = classify(model.head(features), allowed)
            optimizer.zero_grad(set_to_none=True)
            (classification + study.loss.alignment_weight * alignment).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            terms.append(torch.stack([classification, alignment]).detach())
    return torch.stack(terms).mean(dim=0)


def _alignment(features: Tensor, labels: Tensor, domain: Tensor, anchors: Prototypes, study: StudyConfig) -> Tensor:
    exact = labels >= 0
    return boda_paper_loss(
        features[exact],
        labels[exact],
        domains=domain[exact],
        centroids=anchors.centroids.to(features),
        counts=anchors.counts.to(features.device),
        exponent=study.loss.alignment_exponent,
    )
