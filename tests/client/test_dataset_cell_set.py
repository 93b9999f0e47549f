"""CellSet: parts, labels and counts that a person can check."""

import torch

from wbc_client.dataset.cell_set import CellSet

# Four cells of three classes: 0; 2; 0 or 1 (coarse); 1.
CELLS = CellSet(
    images=torch.arange(4 * 3 * 2 * 2, dtype=torch.uint8).reshape(4, 3, 2, 2),
    allowed=torch.tensor([[1, 0, 0], [0, 0, 1], [1, 1, 0], [0, 1, 0]], dtype=torch.bool),
    groups=torch.tensor([0, 1, 2, 1]),
    split=torch.tensor([0, 1, 0, 2]),
)


def test_a_coarse_cell_counts_in_equal_shares() -> None:
    assert CELLS.class_counts().tolist() == [1.5, 1.5, 1.0]
    assert CELLS.class_counts().dtype == "float64"
    assert CELLS.class_counts().sum() == len(CELLS)


def test_a_coarse_cell_has_no_label_and_is_not_exact() -> None:
    assert CELLS.exact.tolist() == [True, True, False, True]
    assert CELLS.labels.tolist() == [0, 2, -1, 1]
    assert CELLS.labels.dtype == torch.int64


def test_parts_keep_rows_together_and_cover_all_cells() -> None:
    train = CELLS.part("train")
    assert torch.equal(train.images, CELLS.images[[0, 2]])
    assert train.groups.tolist() == [0, 2]
    assert train.class_counts().tolist() == [1.5, 0.5, 0.0]
    assert [len(CELLS.part(name)) for name in ("train", "val", "test")] == [2, 1, 1]


def test_an_empty_part_still_counts() -> None:
    nothing = CELLS.subset(torch.zeros(4, dtype=torch.bool))
    assert len(nothing) == 0
    assert nothing.class_counts().tolist() == [0, 0, 0]
    assert nothing.labels.tolist() == []
