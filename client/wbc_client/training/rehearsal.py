"""Rehearsal: in-silico cells between a clinic's own, so that training there forgets no class that it seldom sees.

A clinic's few cells pull the network towards one lab's look, and away from classes that the clinic lacks; cells of all
classes and of a hundred looks, in equal shares, hold it. It is rehearsal as against forgetting (Robins, Connection
Science 1995) with cells that no patient gave, where Zhao et al. (arXiv 1806.00582) share a public set among clients.
The cells come with the package, so nothing more is received or leaves. They are of wide blends of in-silico looks
(`wbc-simulate rehearsal-cells`; docs/method.md §11), named by plain cross-entropy, which is L1 for equal shares; the
domain-aware loss, class counts and class sums are of the clinic's own cells alone.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from wbc_client.dataset.cell_set import CellSet
from wbc_client.dataset.compact import read_compact
from wbc_client.losses import LossTerms
from wbc_client.training.course import Batch
from wbc_common.cells import registry
from wbc_common.nuclear_stain import even_nuclear_stain
from wbc_common.study import StudyConfig

REHEARSAL_CELLS = Path(__file__).with_name("rehearsal_cells.safetensors")
OwnLoss = Callable[[Tensor, Tensor, Tensor], LossTerms]


@dataclass(frozen=True)
class WithRehearsal:
    """A clinic's own cells, at places 0..N−1, and after them M in-silico ones; nothing is copied but a batch.

    Attributes:
        own: N ≥ 1 cells.
        rehearsed: the in-silico cells that there are, labelled by the head's rows.
        drawn: int64 [M], places in `rehearsed`.
    """

    own: CellSet
    rehearsed: CellSet
    drawn: Tensor

    def __len__(self) -> int:
        return len(self.own) + len(self.drawn)

    def take(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Images uint8 [B, 3, H, W] and allowed classes bool [B, C], none for rehearsed cells, at places int64 [B]."""
        is_own = places < len(self.own)
        own_images, own_allowed = self.own.take(places[is_own])
        images = own_images.new_empty((len(places), *own_images.shape[1:]))
        images[is_own] = own_images
        images[~is_own] = self.rehearsed.images[self.drawn[places[~is_own] - len(self.own)]]
        allowed = own_allowed.new_zeros(len(places), own_allowed.shape[1])
        allowed[is_own] = own_allowed
        return images, allowed

    @property
    def drawn_rows(self) -> Tensor:
        """The head's row of each rehearsed cell, int64 [M]."""
        return self.rehearsed.labels[self.drawn]


def with_rehearsal(own: CellSet, study: StudyConfig, generator: torch.Generator) -> WithRehearsal:
    """A clinic's cells and a draw of in-silico ones: `training.rehearsal` for each of its own, one at least.

    Classes take turns in a random order, cells of a class are drawn with replacement.
    """
    cells = cells_to_rehearse(study)
    number = max(1, round(study.training.rehearsal * len(own)))
    return WithRehearsal(own, cells, _balanced(cells.labels, number, generator))


def cells_to_rehearse(study: StudyConfig) -> CellSet:
    """The in-silico cells that a study's clinics rehearse, of all that the rows of its head name.

    Raises:
        DataError: the file that is shipped with the package is missing or damaged.
    """
    named = "wbc13" if study.model.fine_classes else study.registry
    return rehearsal_cells(named, study.images.size_px, study.images.nuclear_stain)


@lru_cache(maxsize=1)
def rehearsal_cells(registry_name: str, size_px: int, nuclear_stain: float) -> CellSet:
    """The in-silico cells that the package ships, of the registry's classes, as a study of these images sees them."""
    cells = read_compact(REHEARSAL_CELLS, registry(registry_name))
    images = cells.images
    if images.shape[-1] != size_px:
        resized = functional.interpolate(images.float(), (size_px, size_px), mode="bilinear", antialias=True)
        images = resized.round_().clamp_(0, 255).to(torch.uint8)
    return replace(cells, images=even_nuclear_stain(images, nuclear_stain) if nuclear_stain else images)


def _balanced(labels: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """Places [number] of cells, the classes of `labels` in equal shares up to one."""
    places = [(labels == cell_class).nonzero().squeeze(1) for cell_class in sorted(set(labels.tolist()))]
    order = torch.randperm(len(places), generator=generator).repeat(number // len(places) + 1)[:number]
    chance = torch.rand(number, generator=generator).tolist()
    return torch.stack(
        [places[turn][int(share * len(places[turn]))] for turn, share in zip(order.tolist(), chance, strict=True)]
    )


@dataclass(frozen=True)
class RehearsedLoss:
    """The loss of a batch of both: the clinic's own loss and cross-entropy, weighted by how many cells each has.

    Attributes:
        loss: of features [B, D], logits [B, R] of the head's rows and allowed classes bool [B, C] of own cells.
        num_own: cells at places below are the clinic's own.
        rows: int64 [M], the head's row of each of the others.
    """

    loss: OwnLoss
    num_own: int
    rows: Tensor

    def __call__(self, features: Tensor, logits: Tensor, batch: Batch) -> LossTerms:
        """The terms of a batch; the unweighted ones are those of its own cells."""
        is_own = batch.places < self.num_own
        own, rehearsed = (mask.nonzero().squeeze(1).to(logits.device) for mask in (is_own, ~is_own))
        nothing = logits.new_zeros(())
        terms = LossTerms(nothing, nothing, nothing, nothing)
        if len(own):
            terms = self.loss(features[own], logits[own], batch.allowed[own])
        total = terms.total * (len(own) / len(logits))
        if len(rehearsed):
            labels = self.rows[batch.places[~is_own] - self.num_own].to(logits.device)
            total = total + functional.cross_entropy(logits[rehearsed], labels) * (len(rehearsed) / len(logits))
        return terms._replace(total=total)
