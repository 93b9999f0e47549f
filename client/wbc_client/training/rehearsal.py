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
from wbc_client.losses import LossTerms, exact_labels
from wbc_client.training.course import Batch
from wbc_common.cells import registry
from wbc_common.nuclear_stain import even_nuclear_stain
from wbc_common.study import StudyConfig

REHEARSAL_CELLS = Path(__file__).with_name("rehearsal_cells.safetensors")
_JOINED = ("images", "allowed", "groups", "split")
OwnLoss = Callable[[Tensor, Tensor, Tensor], LossTerms]


def with_rehearsal(own: CellSet, study: StudyConfig, generator: torch.Generator) -> CellSet:
    """A clinic's N ≥ 1 cells, and after them a draw of in-silico ones: `training.rehearsal` for each, one at least.

    Classes take turns in a random order, cells of a class are drawn with replacement.
    """
    cells = rehearsal_cells(study.registry, study.images.size_px, study.images.nuclear_stain)
    number = max(1, round(study.training.rehearsal * len(own)))
    drawn = cells.subset(_balanced(cells.labels, number, generator))
    return CellSet(*(torch.cat([getattr(own, name), getattr(drawn, name)]) for name in _JOINED))


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
        loss: of features [B, D], logits [B, C] and allowed classes bool [B, C] of own cells.
        num_own: cells at places below are the clinic's own.
    """

    loss: OwnLoss
    num_own: int

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
            labels = exact_labels(batch.allowed[rehearsed])
            total = total + functional.cross_entropy(logits[rehearsed], labels) * (len(rehearsed) / len(logits))
        return terms._replace(total=total)
