"""CellSet: the cells of one clinic in memory, as training and evaluation use them.

Decoded once into uint8 tensors: a round then costs no decoding. A label is kept as the set of classes it allows, so
that a coarse one ("neutrophil" among 13 classes) is neither lost nor guessed at. Patients are numbers without meaning.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class CellSet:
    """N cells of one clinic.

    Attributes:
        images: uint8 [N, 3, H, W].
        allowed: bool [N, C], the classes each label allows: one True is an exact label, several a coarse one.
        groups: int64 [N], anonymous number of the patient, slide, field or near-duplicate component.
        split: int64 [N], index into SPLITS.
        domain: int64 [N], which clinic a cell came from, where a bound pools the cells of several; None at a clinic.
    """

    images: torch.Tensor
    allowed: torch.Tensor
    groups: torch.Tensor
    split: torch.Tensor
    domain: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    def part(self, name: str) -> "CellSet":
        """The cells of the split `name`."""
        return self.subset(self.split == SPLITS.index(name))

    def subset(self, chosen: torch.Tensor) -> "CellSet":
        """The cells chosen by a bool mask [N] or by int64 indices."""
        domain = None if self.domain is None else self.domain[chosen]
        return CellSet(self.images[chosen], self.allowed[chosen], self.groups[chosen], self.split[chosen], domain)

    def take(self, places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Images and allowed classes of the cells at places int64 [B]."""
        return self.images[places], self.allowed[places]

    @property
    def exact(self) -> torch.Tensor:
        """bool [N]: the label allows one class only."""
        return self.allowed.sum(dim=1) == 1

    @property
    def labels(self) -> torch.Tensor:
        """int64 [N]: the class of an exact cell, -1 for a coarse one."""
        return torch.where(self.exact, self.allowed.long().argmax(dim=1), -1)

    def class_counts(self) -> NDArray[np.float64]:
        """float64 [C]: cells per class; a coarse cell counts in equal shares over the classes it allows."""
        shares = self.allowed.double() / self.allowed.sum(dim=1, keepdim=True)  # [N, C]
        return shares.sum(dim=0).numpy()


def joined(parts: Sequence[CellSet]) -> CellSet:
    """The cells of several domains as one set; patients keep apart, and each cell knows its domain."""
    offsets = np.cumsum([0, *(_num_groups(part) for part in parts[:-1])])
    return CellSet(
        images=torch.cat([part.images for part in parts]),
        allowed=torch.cat([part.allowed for part in parts]),
        groups=torch.cat([part.groups + int(offset) for part, offset in zip(parts, offsets, strict=True)]),
        split=torch.cat([part.split for part in parts]),
        domain=torch.cat([torch.full((len(part),), place) for place, part in enumerate(parts)]),
    )


def _num_groups(cells: CellSet) -> int:
    return int(cells.groups.max()) + 1 if len(cells) else 0
