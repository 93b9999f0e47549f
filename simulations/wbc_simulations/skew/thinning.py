"""Leaves cells out: a long tail over the classes, classes that a clinic never has, a share of the cells.

The long tail is the exponential profile of Cui et al. 2019 and Cao et al. 2019: the class of rank r among P has
n_max·IF^(−r/(P−1)) cells. Those authors start from as many cells in every class; here a class can hold fewer than its
place asks for, so n_max is the largest number for which every class has enough.
"""

import numpy as np
from numpy.typing import NDArray

from wbc_common.cells import Registry
from wbc_common.errors import SettingError
from wbc_simulations.skew.settings import LongTail


def in_long_tail(
    labels: NDArray[np.int64], tail: LongTail, classes: Registry, generator: np.random.Generator, *, place: str
) -> NDArray[np.bool_]:
    """Which cells the profile keeps, bool [N]; those with a coarse label are left out, as their class is not known.

    Args:
        labels: int64 [N], −1 for a coarse label.
        place: the setting, for the message.

    Raises:
        SettingError: there are too few cells for such an imbalance, or `order` leaves out a class that has some.
    """
    available = np.bincount(labels[labels >= 0], minlength=len(classes))
    kept = np.zeros(len(labels), dtype=np.bool_)
    for cell_class, count in enumerate(long_tail_counts(available, tail, classes, place=place)):
        kept[generator.permutation(np.flatnonzero(labels == cell_class))[:count]] = True
    return kept


def long_tail_counts(
    available: NDArray[np.int64], tail: LongTail, classes: Registry, *, place: str
) -> NDArray[np.int64]:
    """Cells that each class keeps, int64 [C], of those available [C]; 0 for a class that has none."""
    order = _order(available, tail, classes, place)
    counts = np.zeros(len(available), dtype=np.int64)
    if not len(order):
        return counts
    profile = tail.imbalance ** (-np.arange(len(order)) / max(len(order) - 1, 1))
    largest = float((available[order] / profile).min())
    if largest * profile[-1] < 0.5:
        raise SettingError(
            f"{place}.imbalance = {tail.imbalance:g}: the first class can have {largest:.0f} cells, and the last, "
            f"{classes.classes[order[-1]]}, none",
            remedy=f"choose an imbalance of at most {largest:.0f}, another order, or more cells",
        )
    counts[order] = np.maximum(np.rint(largest * profile), 1).astype(np.int64)
    return counts


def _order(available: NDArray[np.int64], tail: LongTail, classes: Registry, place: str) -> NDArray[np.int64]:
    """Classes that have cells, from head to tail."""
    if not tail.order:
        ordered = np.argsort(-available, kind="stable")
        return ordered[available[ordered] > 0]
    left_out = [
        name for name, count in zip(classes.classes, available, strict=True) if count and name not in tail.order
    ]
    if left_out or len(set(tail.order)) < len(tail.order):
        raise SettingError(
            f"{place}.order must name each class once; left out: {', '.join(left_out) or 'none'}",
            remedy="name every class from the most to the fewest cells, or leave 'order' out",
        )
    return np.array([classes.index(name) for name in tail.order if available[classes.index(name)]], dtype=np.int64)


def without_classes(allowed: NDArray[np.bool_], missing: tuple[str, ...], classes: Registry) -> NDArray[np.bool_]:
    """Which cells, bool [N], have a label that cannot mean one of the missing classes; `allowed` bool [N, C]."""
    columns = [classes.index(name) for name in missing]
    return np.asarray(~allowed[:, columns].any(axis=1))


def in_share(num_cells: int, share: float, generator: np.random.Generator) -> NDArray[np.bool_]:
    """Which cells a random share keeps, bool [N]: share·N rounded, one at least."""
    kept = np.zeros(num_cells, dtype=np.bool_)
    kept[generator.permutation(num_cells)[: max(round(share * num_cells), 1)]] = True
    return kept
