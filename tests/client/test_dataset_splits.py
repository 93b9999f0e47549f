"""Splits: patients and near-duplicates stay whole, whatever the clinic looks like."""

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wbc_client.dataset.splits import assign_splits, connected_units, given_splits, refuse_straddling
from wbc_common.errors import DataError


def test_units_join_cells_through_patients_and_near_duplicates() -> None:
    groups = ["P1", "P1", "P2", "P3", "", "", "P4"]
    near_duplicates = ["", "x", "x", "", "y", "y", ""]
    # P1 and P2 are joined by x; the two cells without a patient by y; the empty name joins nothing.
    assert connected_units(groups, near_duplicates).tolist() == [0, 0, 0, 1, 2, 2, 3]


def test_a_patient_and_a_cluster_of_one_name_are_two_things() -> None:
    assert connected_units(["a", ""], ["", "a"]).tolist() == [0, 1]


def test_cells_without_any_name_are_units_of_their_own() -> None:
    assert connected_units(["", "", ""], ["", "", ""]).tolist() == [0, 1, 2]
    assert connected_units([], []).tolist() == []


def test_a_hundred_single_cells_are_split_60_20_20_in_each_class() -> None:
    labels = np.repeat([0, 1], [80, 20])
    split = assign_splits(labels, np.arange(100), seed=1)
    assert [np.bincount(split[labels == label]).tolist() for label in (0, 1)] == [[48, 16, 16], [12, 4, 4]]


def test_the_seed_alone_decides() -> None:
    labels, groups = np.repeat([0, 1], 50), np.arange(100) // 2
    assert np.array_equal(assign_splits(labels, groups, seed=2**62), assign_splits(labels, groups, seed=2**62))
    assert not np.array_equal(assign_splits(labels, groups, seed=1), assign_splits(labels, groups, seed=2))


def test_fewer_than_five_units_all_train_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="wbc_client"):
        assert assign_splits(np.array([0]), np.array([0]), seed=0).tolist() == [0]
        assert assign_splits(np.zeros(8, dtype=np.int64), np.arange(8) // 2, seed=0).tolist() == [0] * 8
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "all 8 cells train" in caplog.text


def test_a_patient_with_most_of_the_cells_trains() -> None:
    groups = np.concatenate([np.zeros(90, dtype=np.int64), np.arange(1, 11)])
    for seed in range(5):
        split = assign_splits(np.arange(100) % 2, groups, seed)
        assert (split[:90] == 0).all()


def test_a_class_with_one_patient_trains() -> None:
    # 40 patients of two cells; the rare class has one cell in all, its patient another of a common class.
    labels, groups = np.tile([0, 1], 40), np.arange(80) // 2
    for rare in range(80):
        for seed in range(3):
            told = labels.copy()
            told[rare] = 2
            split = assign_splits(told, groups, seed)
            assert split[rare] == 0
            assert np.bincount(split).tolist() == [48, 16, 16]


def test_the_largest_patient_trains_even_where_rare_classes_would_need_its_place() -> None:
    # Fold 0 has one large patient; four more patients have a class each.
    groups = np.concatenate([np.zeros(90, dtype=np.int64), np.arange(1, 5)])
    labels = np.concatenate([np.zeros(90, dtype=np.int64), np.arange(1, 5)])
    split = assign_splits(labels, groups, seed=0)
    assert (split[:90] == 0).all()
    assert sorted(split[90:].tolist()) == [0, 0, 1, 2]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_no_unit_straddles_splits(data: st.DataObject) -> None:
    num_cells = data.draw(st.integers(1, 60))

    def column(most: int) -> list[int]:
        return data.draw(st.lists(st.integers(0, most), min_size=num_cells, max_size=num_cells))

    groups = [f"P{name}" if name else "" for name in column(20)]
    near_duplicates = [f"D{name}" if name else "" for name in column(30)]
    split = assign_splits(
        np.array(column(4)), connected_units(groups, near_duplicates), data.draw(st.integers(0, 2**63))
    )
    assert set(split.tolist()) <= {0, 1, 2}
    for names in (groups, near_duplicates):
        for name in set(names) - {""}:
            assert len({part for part, own in zip(split.tolist(), names, strict=True) if own == name}) == 1


def test_given_splits_are_used_as_they_stand() -> None:
    assert given_splits(["test", "train", "val", "test"], np.array([0, 1, 2, 0])).tolist() == [2, 0, 1, 2]


def test_a_straddling_unit_is_refused_with_a_count() -> None:
    with pytest.raises(DataError, match="2 of 3 units"):
        given_splits(["train", "test", "val", "val", "train"], np.array([0, 0, 1, 2, 2]))
    with pytest.raises(DataError, match="1 of 1 units"):
        refuse_straddling(np.array([7, 7]), np.array([0, 1]))


def test_half_filled_splits_are_refused() -> None:
    with pytest.raises(DataError, match="1 of 2 cells have no split"):
        given_splits(["train", ""], np.array([0, 1]))
