"""Class sums pooled over training clinics in one round, the next round's anchors (docs/method.md §1).

They are carried in the server's state, so that a resumed run sends the same anchors. Of two clinics' total each could
take out its own sums and hold the other's, so a pool is of three or more, in a round that one of three missed as well.
A clinic whose sums are not in the pool must not take them out of it, so the pool knows whose it holds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial, reduce
from operator import add

import numpy as np

from wbc_common.lazily import with_arrays
from wbc_common.settings.loss import LEAST_IN_A_TOTAL
from wbc_common.study import StudyConfig
from wbc_common.wire import Arrays, ClassSums

_SUMS, _COUNTS, _CLINICS = "anchors/sums", "anchors/counts", "anchors/clinics"


@dataclass(frozen=True)
class AnchorPool:
    """Summed class sums, and the clinics that they are of."""

    totals: ClassSums
    clinics: tuple[str, ...]


def pool_sums(sums: Mapping[str, ClassSums]) -> AnchorPool | None:
    """The pool of clinic → sums, added in their order; None of fewer than three clinics."""
    return AnchorPool(reduce(add, sums.values()), tuple(sums)) if len(sums) >= LEAST_IN_A_TOTAL else None


def put_pool(state: Mapping[str, np.ndarray], pool: AnchorPool | None, study: StudyConfig) -> Mapping[str, np.ndarray]:
    """The server's state with this pool in place of the last one; the rest is looked up when it is wanted."""
    pooled: Arrays = {}
    if pool is not None:
        held = np.array([clinic in pool.clinics for clinic in sorted(study.clinics.train)])
        pooled = {_SUMS: pool.totals.sums, _COUNTS: pool.totals.counts, _CLINICS: held}
    more = {key: partial(pooled.__getitem__, key) for key in pooled}
    return with_arrays(state, more, without=(_SUMS, _COUNTS, _CLINICS))


def find_pool(state: Mapping[str, np.ndarray], study: StudyConfig) -> AnchorPool | None:
    """The pool in the server's state."""
    if _SUMS not in state:
        return None
    names = sorted(study.clinics.train)
    clinics = tuple(clinic for clinic, held in zip(names, state[_CLINICS], strict=True) if held)
    return AnchorPool(ClassSums(state[_SUMS], state[_COUNTS]), clinics)
