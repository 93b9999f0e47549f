"""The one loop of local training: batches in random order, a step on each, the mean loss terms of the last epoch.

Ways of training differ in their loss, in which cells an epoch draws and in what the model leaves fixed (parameters that
need no gradient stay and do not leave); DP-SGD brings steps and batches of its own. What the loss sees is fp32 whatever
the network computes in.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from wbc_client.device import as_input
from wbc_client.losses import LossTerms, proximal_term
from wbc_client.precision import computing_in, resolve_precision
from wbc_client.training.augmentation import augment
from wbc_client.training.virtual_stains import VirtualStains
from wbc_common.appearance import normalise
from wbc_common.models import Network
from wbc_common.study import TrainingSettings


class TrainingCells(Protocol):
    """N cells by their places 0..N−1, as a CellSet holds them, or as a clinic's own and rehearsed ones make them up."""

    def __len__(self) -> int: ...

    def take(self, places: Tensor) -> tuple[Tensor, Tensor]: ...


class Batch(NamedTuple):
    """Augmented, normalised images [B, 3, H, W] and allowed classes bool [B, C], on the device; places [B]."""

    images: Tensor
    allowed: Tensor
    places: Tensor


BatchLoss = Callable[[Tensor, Tensor, Batch], LossTerms]
Draw = Callable[[torch.Generator], Tensor]
Step = Callable[[Batch], dict[str, Tensor]]


@dataclass(frozen=True)
class Course:
    """How long, how fast and on what a model trains.

    Attributes:
        settings: batch size, augmentation, optimiser and precision.
        generator: draws order and augmentation.
        proximal_weight: μ of the pull towards the model as received.
        stains: those of the federation, for augmentation "federated-stain".
        draw: places of the cells that an epoch takes, in order; None takes every cell once.
    """

    settings: TrainingSettings
    rate: float
    epochs: int
    generator: torch.Generator
    proximal_weight: float = 0.0
    stains: VirtualStains | None = None
    draw: Draw | None = None


def take_course(model: Network, cells: TrainingCells, course: Course, loss: BatchLoss) -> dict[str, float]:
    """Train a model in place on N ≥ 1 cells; mean loss terms of the last epoch.

    `loss` gets features float32 [B, D], logits [B, R] of the head's rows and the batch.
    """
    device = model.head.weight.device
    step = _gradient_step(model.train(), course, loss)
    return run_epochs((_batches(cells, course, device) for _ in range(course.epochs)), step)


def run_epochs(epochs: Iterable[Iterable[Batch]], step: Step) -> dict[str, float]:
    """Take a step on each batch; means, over the last epoch, of the terms that steps return (there may be none)."""
    terms: list[dict[str, Tensor]] = []
    for batches in epochs:
        terms = [step(batch) for batch in batches]
    means = torch.stack([torch.stack(list(one.values())) for one in terms]).mean(dim=0) if terms[0] else torch.empty(0)
    return dict(zip(terms[0], means.tolist(), strict=True))


def draw_batch(cells: TrainingCells, places: Tensor, course: Course, device: torch.device) -> Batch:
    """The cells at places [B], augmented anew on the device; what is random is drawn on the generator's."""
    images, allowed = cells.take(places)
    seen = augment(images.to(device), course.settings.augmentation, course.generator, course.stains)
    return Batch(as_input(normalise(seen), device), allowed.to(device), places)


def build_optimizer(model: nn.Module, settings: TrainingSettings, rate: float) -> torch.optim.Optimizer:
    """The plan's optimiser over the parameters that are to change."""
    moving = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(moving, lr=rate, momentum=0.9, weight_decay=settings.weight_decay)
    return torch.optim.AdamW(moving, lr=rate, weight_decay=settings.weight_decay, fused=True)


def _batches(cells: TrainingCells, course: Course, device: torch.device) -> Iterator[Batch]:
    generator = course.generator
    places = torch.randperm(len(cells), generator=generator) if course.draw is None else course.draw(generator)
    for part in torch.split(places, course.settings.batch_size):
        yield draw_batch(cells, part, course, device)


def _gradient_step(model: Network, course: Course, loss: BatchLoss) -> Step:
    """One step of the optimiser on a batch."""
    optimizer = build_optimizer(model, course.settings, course.rate)
    precision = resolve_precision(course.settings.precision, model.head.weight.device)
    received = [parameter.detach().clone() for parameter in model.parameters()]

    def step(batch: Batch) -> dict[str, Tensor]:
        with computing_in(precision, batch.images.device):
            features = model.features(batch.images)
        features = features.float()
        terms = loss(features, model.head(features), batch)
        if course.proximal_weight > 0:
            pull = course.proximal_weight * proximal_term(model.parameters(), received)
            terms = terms._replace(total=terms.total + pull)
        optimizer.zero_grad(set_to_none=True)
        terms.total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return {name: term.detach() for name, term in zip(("loss", *terms._fields[1:]), terms, strict=True)}

    return step
