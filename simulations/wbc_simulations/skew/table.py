"""CellTable: cells without pixels. Clinics are made of tables; images follow when a clinic's file is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from wbc_client.dataset.cell_set import CellSet


@dataclass(frozen=True)
class CellTable:
    """N cells.

    Attributes:
        allowed: bool [N, C], the classes that each label allows.
        groups: int64 [N], number of the patient, slide or near-duplicate component.
        split: int64 [N], index into SPLITS.
        source: int64 [N], index of the source clinic whose cell it is.
        row: int64 [N], the cell's place there.
    """

    allowed: NDArray[np.bool_]
    groups: NDArray[np.int64]
    split: NDArray[np.int64]
    source: NDArray[np.int64]
    row: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.groups)

    def subset(self, chosen: NDArray[np.bool_]) -> "CellTable":
        """The cells chosen by a mask [N]."""
        return CellTable(
            self.allowed[chosen], self.groups[chosen], self.split[chosen], self.source[chosen], self.row[chosen]
        )

    @property
    def labels(self) -> NDArray[np.int64]:
        """int64 [N]: the class of a cell with an exact label, −1 for a coarse one."""
        return np.where(self.allowed.sum(axis=1) == 1, self.allowed.argmax(axis=1), -1).astype(np.int64)

    @property
    def strata(self) -> NDArray[np.int64]:
        """int64 [N]: a code of each cell's set of allowed classes, numbered from 0."""
        return np.unique(self.allowed, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def table_of(cells: CellSet, source: int) -> CellTable:
    """The table of a source's cells."""
    rows = np.arange(len(cells.groups), dtype=np.int64)
    return CellTable(cells.allowed.numpy(), cells.groups.numpy(), cells.split.numpy(), np.full_like(rows, source), rows)


def pooled(tables: Sequence[CellTable]) -> CellTable:
    """The cells of several sources; their patients keep apart."""
    offsets = np.cumsum([0, *(int(table.groups.max(initial=-1)) + 1 for table in tables)])
    return CellTable(
        allowed=np.concatenate([table.allowed for table in tables]),
        groups=np.concatenate([table.groups + offset for table, offset in zip(tables, offsets, strict=False)]),
        split=np.concatenate([table.split for table in tables]),
        source=np.concatenate([table.source for table in tables]),
        row=np.concatenate([table.row for table in tables]),
    )


def with_images(table: CellTable, sources: Mapping[int, CellSet]) -> CellSet:
    """The cells of a table, their images uint8 [N, 3, H, W] taken from the sources."""
    some = next(iter(sources.values())).images
    images = torch.empty(len(table), *some.shape[1:], dtype=torch.uint8)
    for number, cells in sources.items():
        chosen = torch.from_numpy(table.source == number)
        images[chosen] = cells.images[torch.from_numpy(table.row[table.source == number])]
    columns = (torch.from_numpy(np.ascontiguousarray(column)) for column in (table.allowed, table.groups, table.split))
    return CellSet(images, *columns)
