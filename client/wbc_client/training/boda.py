"""Centralised BoDA, the published method where one party holds every domain's cells (`wbc_client.losses.boda`).

For the bound that federated methods are compared with: prototypes of each (domain, class) are those of the received
model, computed once a round over all training cells, as the authors' code does once an epoch. No clinic of a federation
may train so, as it would need the prototypes of the others; the plan refuses more than one training clinic.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from wbc_client.dataset.cell_set import CellSet
from wbc_client.features import all_features
from wbc_client.losses import LossTerms, boda_paper_loss, exact_labels, imbalance_of
from wbc_client.precision import resolve_precision
from wbc_client.training.course import Batch, BatchLoss, take_course
from wbc_client.training.local import round_course
from wbc_client.training.virtual_stains import VirtualStains
from wbc_common.errors import DataError
from wbc_common.models import Network
from wbc_common.study import StudyConfig


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
) -> dict[str, float]:
    """Train a received model on cells of several domains with L1 + w2·BoDA, in place; mean terms of the last epoch.

    Args:
        model: on the device to train on.
        cells: training cells with `domain`.

    Raises:
        DataError: the cells do not say their domains.
    """
    if cells.domain is None:
        raise DataError(
            "loss.alignment = 'boda-paper' needs cells that say their domain, and these do not",
            remedy="use it through a bound of wbc-simulate compare, or set loss.alignment = 'leave-self-out'",
        )
    course = round_course(study, clinic=clinic, round_number=round_number, stains=stains)
    return take_course(model, cells, course, _paper_loss(model, cells, cells.domain, study))


def prototypes(features: Tensor, labels: Tensor, domain: Tensor, num_classes: int) -> Prototypes:
    """The prototypes of features [N, D]; `labels` int64 [N], −1 (coarse) left out; `domain` int64 [N] from 0."""
    num_domains = int(domain.max()) + 1
    exact = labels >= 0
    place = domain[exact] * num_classes + labels[exact]
    counts = torch.bincount(place, minlength=num_domains * num_classes)
    sums = features.new_zeros(num_domains * num_classes, features.shape[1]).index_add_(0, place, features[exact])
    centroids = sums / counts.clamp_min(1)[:, None]
    return Prototypes(centroids.view(num_domains, num_classes, -1), counts.view(num_domains, num_classes))


def _paper_loss(model: Network, cells: CellSet, domain: Tensor, study: StudyConfig) -> BatchLoss:
    """L1 + w2·BoDA to the prototypes of the model as it is now."""
    device = model.head.weight.device
    counts = torch.from_numpy(cells.class_counts()).to(device, torch.float32)
    classify = imbalance_of(counts, study.loss, model.rows)
    precision = resolve_precision(study.training.precision, device)
    features_now = all_features(model, cells.images, device, precision=precision)
    anchors = prototypes(features_now, cells.labels, domain, cells.allowed.shape[1])

    def loss(features: Tensor, logits: Tensor, batch: Batch) -> LossTerms:
        labels, domains = exact_labels(batch.allowed), domain[batch.places].to(device)
        alignment = _alignment(features, labels, domains, anchors, study)
        classification = classify(logits, batch.allowed)
        total = classification + study.loss.alignment_weight * alignment
        return LossTerms(total, classification, alignment, features.new_zeros(()))

    return loss


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
