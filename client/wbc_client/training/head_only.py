"""The balanced last rounds: the backbone stays as received, the head learns from balanced batches (docs/method.md §1).

BoDA's second stage (BoDA_{r,c}, Yang et al. 2022, section 4.4; classifier re-training of Kang et al., ICLR 2020):
once features are learned on the cells as they come, the classifier is trained with each class drawn as often as any
other. The classification loss sees the drawn mix: equal counts of the classes present, and none of the missing ones,
so that the prior is not corrected twice. Alignment and guide act on features, which do not move here. Only head rows
leave.
"""

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wbc_client.dataset.cell_set import CellSet
from wbc_client.losses import DomainAwareLoss, Imbalance, imbalance_of
from wbc_client.training.course import Course, take_course
from wbc_client.training.local import round_course
from wbc_client.training.virtual_stains import VirtualStains
from wbc_common.models import Network
from wbc_common.study import LossSettings, StudyConfig


def train_head(
    model: Network,
    cells: CellSet,
    study: StudyConfig,
    *,
    clinic: str,
    round_number: int,
    stains: VirtualStains | None = None,
) -> dict[str, float]:
    """Train the head of a received model on one clinic's training cells, in place; mean loss terms of the last epoch.

    Args:
        model: the global model, on the device to train on; its backbone is frozen.
        cells: training cells, N ≥ 1.
        stains: those of the federation, for augmentation "federated-stain".
    """
    course = round_course(study, clinic=clinic, round_number=round_number, stains=stains)
    drawn = _drawn_counts(cells.class_counts()).to(model.head.weight.device)
    balanced = replace(course, draw=partial(balanced_draw, cells))
    return fit_head(model, cells, balanced, study.loss, imbalance_of(drawn, study.loss, model.rows))


def fit_head(
    model: Network, cells: CellSet, course: Course, settings: LossSettings, classify: Imbalance
) -> dict[str, float]:
    """Train the head alone, by a classification loss; the backbone is frozen and keeps its bits."""
    model.backbone.requires_grad_(False)
    loss = DomainAwareLoss(settings, classify, anchors=None, frozen_head=None)
    return take_course(model, cells, course, lambda features, logits, batch: loss(features, logits, batch.allowed))


def balanced_draw(cells: CellSet, generator: torch.Generator) -> Tensor:
    """N cells drawn with replacement, int64 [N]: each class present is equally likely, a coarse cell in shares."""
    counts = torch.from_numpy(cells.class_counts())
    shares = cells.allowed.double() / cells.allowed.sum(dim=1, keepdim=True)  # [N, C]
    weights = (shares / torch.where(counts > 0, counts, 1.0)).sum(dim=1)  # [N]
    return torch.multinomial(weights, len(cells), replacement=True, generator=generator)


def _drawn_counts(class_counts: NDArray[np.float64]) -> Tensor:
    """Cells of each class [C] that a balanced epoch draws."""
    present = torch.from_numpy(class_counts) > 0
    return present.float() * float(class_counts.sum()) / present.sum()
