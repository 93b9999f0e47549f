"""Deals pooled cells among K virtual clinics: sizes, Dirichlet label skew, whole patients or single cells.

Label skew: for each class c the clinics' shares are p_c ~ Dir(α·K·q), where q are the clinics' sizes; with equal sizes
this is Dir(α·1), the scheme of Li et al. 2021 (after Hsu et al. 2019). α → ∞ gives every clinic the pool's proportions;
α → 0 gives each class to one clinic. Single cells meet the shares to the cell. Whole patients cannot: they go, the
largest first, to the clinic that lacks most of what they bring.
"""

import numpy as np
from numpy.typing import NDArray

from wbc_client.dataset.cell_set import SPLITS
from wbc_common.errors import SettingError
from wbc_simulations.skew.settings import Sizes, Skew
from wbc_simulations.skew.table import CellTable

_DRAWS = 200


def deal(cells: CellTable, skew: Skew, generator: np.random.Generator) -> NDArray[np.int64]:
    """The virtual clinic, 0 … K−1, of each cell, int64 [N]; drawn anew until each has `min_cells` and can train.

    Raises:
        SettingError: there are not enough patients or cells.
    """
    num_clinics = len(skew.virtual_clinics)
    strata = np.zeros(len(cells), dtype=np.int64) if skew.label_alpha is None else cells.strata
    groups = cells.groups if skew.deal == "patient" else np.arange(len(cells), dtype=np.int64)
    _check_enough(len(np.unique(groups)), len(cells), skew)
    for _ in range(_DRAWS):
        sizes = draw_sizes(skew.sizes, num_clinics, generator)
        shares = draw_shares(int(strata.max()) + 1, sizes, skew.label_alpha, generator)
        if skew.deal == "patient":
            assigned = deal_patients(groups, strata, shares, generator)
        else:
            assigned = deal_cells(strata, shares, generator)
        if _suffices(cells, assigned, skew):
            return assigned
    raise SettingError(
        f"in {_DRAWS} draws some virtual clinic always had no training cell, or fewer than {skew.min_cells} cells "
        "(data.skew.min_cells)",
        remedy="deal to fewer clinics, raise label_alpha or sizes.alpha, lower sizes.exponent, or lower min_cells",
    )


def _suffices(cells: CellTable, assigned: NDArray[np.int64], skew: Skew) -> bool:
    """Whether every clinic has enough cells; single cells keep their split, and each clinic needs one that trains."""
    num_clinics = len(skew.virtual_clinics)
    enough = np.bincount(assigned, minlength=num_clinics).min() >= skew.min_cells
    train = assigned[cells.split == SPLITS.index("train")]
    return bool(enough and (skew.deal == "patient" or np.bincount(train, minlength=num_clinics).min() > 0))


def _check_enough(num_units: int, num_cells: int, skew: Skew) -> None:
    assert skew.clinics is not None, "only dealt clinics come here"
    what = "patients (or slides)" if skew.deal == "patient" else "cells"
    if num_units < skew.clinics:
        raise SettingError(
            f"data.skew deals {num_units} {what} among {skew.clinics} clinics: some would be empty",
            remedy="deal to fewer clinics, or pool more sources",
        )
    if num_cells < skew.clinics * skew.min_cells:
        raise SettingError(
            f"data.skew deals {num_cells} cells among {skew.clinics} clinics of at least {skew.min_cells}",
            remedy="deal to fewer clinics, pool more sources, or lower data.skew.min_cells",
        )


def draw_sizes(sizes: Sizes, num_clinics: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """The clinics' shares of the pool, q float64 [K], summing to 1."""
    if sizes.kind == "dirichlet":
        assert sizes.alpha is not None, "settings checked it"
        return _dirichlet(np.full(num_clinics, sizes.alpha), generator)
    ranks = np.arange(1, num_clinics + 1, dtype=np.float64)
    weights = ranks ** -(sizes.exponent or 0.0)
    return np.asarray(weights / weights.sum())


def draw_shares(
    num_strata: int, sizes: NDArray[np.float64], alpha: float | None, generator: np.random.Generator
) -> NDArray[np.float64]:
    """The clinics' shares of each class, float64 [S, K], rows summing to 1; the sizes themselves without label skew."""
    if alpha is None:
        return np.tile(sizes, (num_strata, 1))
    return np.stack([_dirichlet(alpha * len(sizes) * sizes, generator) for _ in range(num_strata)])


def _dirichlet(concentration: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.float64]:
    """One draw float64 [K]. A concentration so small that every gamma variate underflows means: all to one."""
    drawn = generator.standard_gamma(concentration)
    if drawn.sum() <= 0:
        drawn[generator.choice(len(drawn), p=concentration / concentration.sum())] = 1.0
    return np.asarray(drawn / drawn.sum())


def deal_cells(
    strata: NDArray[np.int64], shares: NDArray[np.float64], generator: np.random.Generator
) -> NDArray[np.int64]:
    """A clinic for each cell, int64 [N]: every class divided in the given shares [S, K], within one cell."""
    assigned = np.empty(len(strata), dtype=np.int64)
    for stratum, row in enumerate(shares):
        members = generator.permutation(np.flatnonzero(strata == stratum))
        assigned[members] = np.repeat(np.arange(len(row)), apportion(len(members), row))
    return assigned


def apportion(total: int, shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """Whole numbers int64 [K] that sum to `total` and differ from total·shares by less than 1 (largest remainders)."""
    ideal = total * shares
    counts = np.floor(ideal).astype(np.int64)
    largest = np.argsort(-(ideal - counts), kind="stable")
    counts[largest[: total - int(counts.sum())]] += 1
    return counts


def deal_patients(
    groups: NDArray[np.int64],
    strata: NDArray[np.int64],
    shares: NDArray[np.float64],
    generator: np.random.Generator,
) -> NDArray[np.int64]:
    """A clinic for each cell, int64 [N], the same for all cells of a patient; every clinic has one patient at least.

    The clinic that a patient x [S] goes to maximises Σ_s x_s·(lacking_s)/N_s: it lowers the squared distance to the
    target counts most, a rare class weighing as much as a common one.
    """
    unit = np.unique(groups, return_inverse=True)[1].reshape(-1)
    counts = np.zeros((int(unit.max()) + 1, len(shares)))  # [U, S]
    np.add.at(counts, (unit, strata), 1)
    totals = counts.sum(axis=0)
    lacking = (shares * totals[:, None]).T  # [K, S]
    order = generator.permutation(len(counts))
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    clinic_of = np.empty(len(counts), dtype=np.int64)
    waiting = np.ones(len(lacking), dtype=bool)  # clinics without a patient
    for place, patient in enumerate(order):
        gain = lacking @ (counts[patient] / totals) + 1e-9 * generator.random(len(lacking))
        if len(order) - place <= waiting.sum():
            gain[~waiting] = -np.inf
        chosen = int(gain.argmax())
        clinic_of[patient], waiting[chosen] = chosen, False
        lacking[chosen] -= counts[patient]
    return clinic_of[unit]
