"""Who trains, who validates, who tests: 60/20/20, and never one patient in two of them.

The unit that moves as a whole is a connected component of "same patient, slide or field" and "near-duplicate of"
(docs/method.md §5.2). A clinic's own splits are used as they stand, unless a unit straddles two of them: figures from
such splits would be too good, so they are refused.
"""

import logging
import warnings
from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from wbc_client.dataset.cell_set import SPLITS
from wbc_common.errors import DataError

FOLDS = 5
TRAIN_FOLDS = 3  # and one each to validate and test: 60/20/20

logger = logging.getLogger(__name__)


def connected_units(groups: Sequence[str], near_duplicates: Sequence[str]) -> NDArray[np.int64]:
    """The unit of each cell, int64 [N], numbered from 0: cells that share a group or a near-duplicate cluster.

    An empty name joins nothing.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    marks = [("group", name) for name in groups], [("near-duplicate", name) for name in near_duplicates]
    edges = [(cell, mark) for column in marks for cell, mark in enumerate(column) if mark[1]]
    node = {mark: len(groups) + place for place, mark in enumerate(dict.fromkeys(mark for _, mark in edges))}
    size = len(groups) + len(node)
    ends = np.array([[cell, node[mark]] for cell, mark in edges], dtype=np.int64).reshape(-1, 2)
    graph = coo_matrix((np.ones(len(ends), dtype=bool), (ends[:, 0], ends[:, 1])), shape=(size, size))
    component = connected_components(graph, directed=False)[1][: len(groups)]
    return np.unique(component, return_inverse=True)[1].astype(np.int64)


def assign_splits(labels: NDArray[np.int64], groups: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """A split for each cell, int64 [N], index into SPLITS: units kept whole, classes spread evenly.

    scikit-learn's StratifiedGroupKFold in five folds. The largest trains, so that one very large patient does, and with
    it the two that leave the fewest classes without a training cell, in a tie the largest: a class with one patient is
    there to be learned. A clinic with fewer than five units trains with all it has.

    Args:
        labels: int64 [N], class (or code of a set of classes) of each cell.
        groups: int64 [N], the unit of each cell.
        seed: decides; the same seed gives the same splits.
    """
    num_units = len(np.unique(groups))
    if num_units < FOLDS:
        logger.warning(
            "%d patient(s) or slide(s) cannot be split in %d: all %d cells train", num_units, FOLDS, len(groups)
        )
        return np.zeros(len(groups), dtype=np.int64)
    fold = _folds(labels, groups, seed)
    largest, *others = np.argsort(-np.bincount(fold, minlength=FOLDS), kind="stable")
    # Pairs come with the largest first, and `max` keeps the first of equals.
    pairs = combinations(others, TRAIN_FOLDS - 1)
    training = [largest, *max(pairs, key=lambda pair: len(np.unique(labels[np.isin(fold, [largest, *pair])])))]
    validating, testing = (number for number in others if number not in training)
    split_of_fold = np.zeros(FOLDS, dtype=np.int64)
    split_of_fold[[validating, testing]] = 1, 2
    return split_of_fold[fold]


def _folds(labels: NDArray[np.int64], groups: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    from sklearn.model_selection import StratifiedGroupKFold

    strata = labels if np.bincount(np.unique(labels, return_inverse=True)[1]).max() >= FOLDS else np.zeros_like(labels)
    splitter = StratifiedGroupKFold(n_splits=FOLDS, shuffle=True, random_state=seed % 2**32)
    fold = np.empty(len(labels), dtype=np.int64)
    with warnings.catch_warnings():
        # A class with fewer than five cells is ordinary at a clinic; it cannot stand in every fold.
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        for number, (_, held) in enumerate(splitter.split(labels, strata, groups)):
            fold[held] = number
    return fold


def given_splits(names: Sequence[str], groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """The clinic's own splits, int64 [N].

    Args:
        names: "train", "val" or "test" of each cell.
        groups: int64 [N], the unit of each cell.

    Raises:
        DataError: some cell has none, or a unit straddles two.
    """
    missing = sum(not name for name in names)
    if missing:
        raise DataError(f"{missing} of {len(names)} cells have no split, the others have one", remedy=_SPLIT_REMEDY)
    split = np.array([SPLITS.index(name) for name in names], dtype=np.int64)
    refuse_straddling(groups, split)
    return split


def refuse_straddling(groups: NDArray[np.int64], split: NDArray[np.int64]) -> None:
    """Check that each unit lies in one split.

    Raises:
        DataError: saying how many do not, never which.
    """
    pairs = np.unique(np.stack([groups, split]), axis=1)  # [2, distinct pairs]
    units, num_splits = np.unique(pairs[0], return_counts=True)
    straddling = int((num_splits > 1).sum())
    if straddling:
        raise DataError(
            f"{straddling} of {len(units)} units (patients, slides or near-duplicate clusters) have cells in more than "
            "one split",
            remedy=_SPLIT_REMEDY,
        )


_SPLIT_REMEDY = 'correct the splits, or set splits = "assigned" under [data] to have them made by patient'
