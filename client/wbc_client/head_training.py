"""The balanced last rounds: the backbone stays as received, the head learns from balanced batches (docs/method.md §1).

BoDA's second stage (BoDA_{r,c}, Yang et al. 2022, section 4.4; classifier re-training of Kang et al., ICLR 2020):
once features are learned on the cells as they come, the classifier is trained with each class drawn as often as any
other. The classification loss sees the drawn mix: equal counts of the classes present, and none of the missing ones,
so that the prior is not corrected twice. Alignment and guide act on features, which do not move here. Only head rows
leave.
"""

import time

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wbc_client.augmentation import augment
from wbc_client.dataset.cell_set import CellSet
from wbc_client.losses import Imbalance, imbalance_of, proximal_term
from wbc_client.training import build_optimizer, round_rate
from wbc_client.virtual_stains import VirtualStains
from wbc_common.appearance import normalise
from wbc_common.models import Network, is_head, model_arrays
from wbc_common.seeds import torch_generator
from wbc_common.study import StudyConfig
from wbc_common.wire import Update


def train_head(
    model: Network,
    cells: CellSet,
    study: StudyConfig,
    *,
    clinic: str,
    round_number: int,
    stains: VirtualStains | None = None,
) -> Update:
    """Train the head of a received model on one clinic's training cells.

    Args:
        model: the global model, on the device to train on; its head is changed in place.
        cells: training cells, N ≥ 1.
        stains: those of the federation, for augmentation "federated-stain".

    Returns:
        The update, of head rows alone; rates fall by the plan's schedule over the head-only rounds.
    """
    started = time.perf_counter()
    received = {key: value for key, value in model_arrays(model).items() if is_head(key)}
    generator = torch_generator(study.seed, "training", clinic, round_number)
    loss = _train(model, cells, study, round_rate(study, round_number), generator=generator, stains=stains)
    now = model_arrays(model)
    return Update(
        delta={key: now[key] - value for key, value in received.items()},
        class_counts=cells.class_counts(),
        losses={"loss": loss, "classification": loss},
        num_cells=len(cells),
        seconds=time.perf_counter() - started,
    )


def balanced_draw(cells: CellSet, generator: torch.Generator) -> Tensor:
    """N cells drawn with replacement, int64 [N]: each class present is equally likely, a coarse cell in shares."""
    counts = torch.from_numpy(cells.class_counts())
    shares = cells.allowed.double() / cells.allowed.sum(dim=1, keepdim=True)  # [N, C]
    weights = (shares / torch.where(counts > 0, counts, 1.0)).sum(dim=1)  # [N]
    return torch.multinomial(weights, len(cells), replacement=True, generator=generator)


def _train(
    model: Network,
    cells: CellSet,
    study: StudyConfig,
    rate: float,
    *,
    generator: torch.Generator,
    stains: VirtualStains | None,
) -> float:
    """Mean classification loss of the last epoch."""
    device = model.head.weight.device
    loss = _balanced_loss(cells.class_counts(), study, device)
    optimizer = build_optimizer(model.head, study.training, rate)
    received = [parameter.detach().clone() for parameter in model.head.parameters()]
    model.eval()
    for _ in range(study.training.local_epochs):
        losses = []
        for index in torch.split(balanced_draw(cells, generator), study.training.batch_size):
            images = augment(cells.images[index], study.training.augmentation, generator, stains)
            with torch.no_grad():
                features = model.features(normalise(images).to(device))
            term = loss(model.head(features), cells.allowed[index].to(device))
            penalty = study.loss.proximal_weight * proximal_term(model.head.parameters(), received)
            optimizer.zero_grad(set_to_none=True)
            (term + penalty).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(term.detach())
    return float(torch.stack(losses).mean())


def _balanced_loss(class_counts: NDArray[np.float64], study: StudyConfig, device: torch.device) -> Imbalance:
    present = torch.from_numpy(class_counts) > 0
    drawn = present.float() * float(class_counts.sum()) / present.sum()
    return imbalance_of(drawn.to(device), study.loss)
