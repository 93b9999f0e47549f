"""Clinic splits: properties that hold for any cells, and numbers that can be checked by hand."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dealt import WBC5, a_skew, a_table, derived, drawn
from wbc_common.errors import SettingError
from wbc_simulations.skew.dealing import apportion, deal_cells, draw_shares, draw_sizes
from wbc_simulations.skew.deriving import derive_clinics
from wbc_simulations.skew.settings import LongTail, Sizes
from wbc_simulations.skew.table import CellTable
from wbc_simulations.skew.thinning import long_tail_counts


@st.composite
def tables(draw: st.DrawFn) -> CellTable:
    num_patients = draw(st.integers(4, 40))
    per_patient = draw(st.lists(st.integers(1, 9), min_size=num_patients, max_size=num_patients))
    groups = np.repeat(np.arange(num_patients), per_patient)
    labels = drawn(draw(st.integers(0, 1000))).integers(0, 5, len(groups))
    return a_table(labels, groups)


skews = st.fixed_dictionaries(
    {
        "deal": st.sampled_from(["patient", "cell"]),
        "clinics": st.integers(1, 4),
        "seed": st.integers(0, 50),
        "min_cells": st.just(1),
    },
    optional={
        "label_alpha": st.floats(0.5, 1e4),
        "sizes": st.sampled_from([{"kind": "dirichlet", "alpha": 3.0}, {"kind": "power-law", "exponent": 1.0}]),
    },
)


@settings(max_examples=60, deadline=None)
@given(tables(), skews)
def test_every_cell_goes_to_exactly_one_clinic_and_a_seed_repeats(table: CellTable, values: dict[str, Any]) -> None:
    try:
        clinics = derived(table, a_skew(**values))
    except SettingError as refused:
        if "in 200 draws" not in refused.problem:  # shares too uneven for so few cells; never a wrong deal
            raise
        return
    rows = np.concatenate([clinic.row for clinic in clinics.values()])
    assert sorted(rows) == list(range(len(table)))
    again = derived(table, a_skew(**values))
    assert all(np.array_equal(clinics[name].row, again[name].row) for name in clinics)
    assert all(np.array_equal(clinics[name].split, again[name].split) for name in clinics)


@settings(max_examples=60, deadline=None)
@given(tables(), skews)
def test_no_patient_straddles_two_clinics_nor_two_splits(table: CellTable, values: dict[str, Any]) -> None:
    try:
        clinics = derived(table, a_skew(**{**values, "deal": "patient"}))
    except SettingError:
        return
    for one, other in itertools.combinations(clinics.values(), 2):
        assert not set(one.groups) & set(other.groups)
    for clinic in clinics.values():
        assert len({*zip(clinic.groups, clinic.split, strict=True)}) == len(set(clinic.groups))


@settings(max_examples=30, deadline=None)
@given(tables(), skews)
def test_single_cells_keep_their_split_so_that_no_patient_trains_here_and_is_tested_there(
    table: CellTable, values: dict[str, Any]
) -> None:
    try:
        clinics = derived(table, a_skew(**{**values, "deal": "cell"}))
    except SettingError:
        return
    for clinic in clinics.values():
        assert np.array_equal(clinic.split, table.split[clinic.row])


def test_another_seed_deals_otherwise() -> None:
    table = a_table(np.arange(300) % 5, np.arange(300) // 6)
    one, other = (derived(table, a_skew(deal="patient", clinics=3, seed=seed)) for seed in (0, 1))
    assert not np.array_equal(one["virtual-1"].row, other["virtual-1"].row)


@given(st.integers(0, 500), st.lists(st.floats(0.01, 1), min_size=1, max_size=12))
def test_whole_numbers_keep_the_sum_and_stay_within_one_of_the_share(total: int, weights: list[float]) -> None:
    shares = np.array(weights) / np.sum(weights)
    counts = apportion(total, shares)
    assert counts.sum() == total
    assert (np.abs(counts - total * shares) < 1).all()


def test_single_cells_meet_the_shares_of_each_class_exactly() -> None:
    strata = np.repeat([0, 1], [100, 20])
    shares = np.array([[0.5, 0.3, 0.2], [0.0, 0.25, 0.75]])
    assigned = deal_cells(strata, shares, drawn())
    counts = [np.bincount(assigned[strata == stratum], minlength=3).tolist() for stratum in (0, 1)]
    assert counts == [[50, 30, 20], [0, 5, 15]]


@pytest.mark.parametrize(("unit", "tolerance"), [("cell", 0.011), ("patient", 0.03)])
def test_a_very_large_alpha_gives_every_clinic_the_proportions_of_the_pool(unit: str, tolerance: float) -> None:
    labels = np.repeat(np.arange(5), [400, 300, 200, 80, 20])
    patients = drawn(1).permutation(1000) // 5  # five cells a patient
    clinics = derived(a_table(labels, patients), a_skew(deal=unit, clinics=4, label_alpha=1e6))
    for clinic in clinics.values():
        proportions = np.bincount(clinic.labels, minlength=5) / len(clinic)
        assert proportions == pytest.approx([0.4, 0.3, 0.2, 0.08, 0.02], abs=tolerance)


def test_a_small_alpha_gives_each_class_to_few_clinics() -> None:
    table = a_table(np.arange(5000) % 5)

    def evenness(alpha: float) -> float:
        """Σ over clinics of squared shares of a class, mean over classes and seeds: 1/K if even, 1 if one has all."""
        found = []
        for seed in range(20):
            skew = a_skew(deal="cell", clinics=5, label_alpha=alpha, seed=seed, min_cells=1)
            clinics = derived(table, skew)
            counts = np.stack([np.bincount(clinic.labels, minlength=5) for clinic in clinics.values()])
            found.append(((counts / 1000) ** 2).sum(axis=0).mean())
        return float(np.mean(found))

    # E Σ p² = (α+1)/(Kα+1) for Dir(α·1): 0.733 for α = 0.1, 0.333 for α = 1, 0.208 for α = 20, with K = 5.
    # No clinic may be empty, which lowers the first a little.
    assert evenness(0.1) == pytest.approx(0.733, abs=0.08)
    assert evenness(1.0) == pytest.approx(0.333, abs=0.03)
    assert evenness(20.0) == pytest.approx(0.208, abs=0.01)


def test_dirichlet_shares_have_the_sizes_as_their_mean() -> None:
    sizes = np.array([0.6, 0.3, 0.1])
    shares = draw_shares(20_000, sizes, 0.5, drawn())
    assert shares.sum(axis=1) == pytest.approx(np.ones(20_000))
    assert shares.mean(axis=0) == pytest.approx(sizes, abs=0.01)
    # Var p_k = q_k(1 − q_k)/(α·K + 1), with α·K = 1.5
    assert shares.var(axis=0) == pytest.approx(sizes * (1 - sizes) / 2.5, abs=0.01)


def test_a_concentration_too_small_for_floating_point_gives_all_to_one() -> None:
    shares = draw_shares(50, np.full(3, 1 / 3), 1e-6, drawn())
    assert shares.sum(axis=1) == pytest.approx(np.ones(50))
    assert shares.max(axis=1) == pytest.approx(np.ones(50))


def test_sizes_follow_the_power_law_to_the_cell() -> None:
    skew = a_skew(deal="cell", clinics=3, sizes={"kind": "power-law", "exponent": 1.0})
    clinics = derived(a_table(np.arange(1100) % 5), skew)
    assert [len(clinic) for clinic in clinics.values()] == [600, 300, 200]  # 1 : 1/2 : 1/3
    assert draw_sizes(Sizes(), 4, drawn()).tolist() == [0.25] * 4


def test_patients_are_dealt_to_equal_sizes_within_one_patient() -> None:
    table = a_table(np.arange(600) % 5, np.arange(600) // 6)
    sizes = [len(clinic) for clinic in derived(table, a_skew(deal="patient", clinics=7)).values()]
    assert sum(sizes) == 600
    assert max(sizes) - min(sizes) <= 6


def test_as_many_clinics_as_patients_gives_one_patient_each() -> None:
    table = a_table(np.zeros(40, dtype=int), np.repeat(np.arange(8), 5))
    clinics = derived(table, a_skew(deal="patient", clinics=8, min_cells=1, sizes={"kind": "power-law", "exponent": 3}))
    assert [len(set(clinic.groups)) for clinic in clinics.values()] == [1] * 8


@given(
    st.lists(st.integers(0, 3000), min_size=5, max_size=5).filter(lambda counts: sum(counts) > 0),
    st.floats(1, 200),
)
def test_the_long_tail_has_its_profile_within_rounding_and_never_more_than_there_is(
    counts: list[int], imbalance: float
) -> None:
    available = np.array(counts)
    try:
        kept = long_tail_counts(available, LongTail(imbalance=imbalance), WBC5, place="x")
    except SettingError:
        return
    assert (kept <= available).all()
    assert ((kept > 0) == (available > 0)).all()
    ordered = kept[np.argsort(-available, kind="stable")]
    ordered = ordered[ordered > 0].astype(float)
    if len(ordered) > 1:
        steps = np.arange(len(ordered)) / (len(ordered) - 1)
        largest = (np.sort(available[available > 0])[::-1] / imbalance**-steps).min()
        assert np.abs(ordered - largest * imbalance**-steps).max() <= 0.5 + 1e-9
        low, high = (ordered[0] - 0.5) / (ordered[-1] + 0.5), (ordered[0] + 0.5) / (ordered[-1] - 0.5)
        assert low - 1e-9 <= imbalance <= high + 1e-9


def test_a_balanced_pool_becomes_the_published_profile() -> None:
    kept = long_tail_counts(np.full(5, 1000), LongTail(imbalance=100), WBC5, place="x")
    assert kept.tolist() == [1000, 316, 100, 32, 10]  # 1000·100^(−r/4)
    order = ("basophil", "eosinophil", "monocyte", "lymphocyte", "neutrophil")
    kept = long_tail_counts(np.full(5, 1000), LongTail(imbalance=100, order=order), WBC5, place="x")
    assert kept.tolist() == [10, 32, 100, 316, 1000]


def test_a_class_with_few_cells_lowers_the_whole_profile() -> None:
    kept = long_tail_counts(np.array([1000, 50, 1000, 1000, 1000]), LongTail(imbalance=16), WBC5, place="x")
    assert kept.tolist() == [800, 50, 400, 200, 100]  # basophil-like last class has 50 = n_max/16: n_max = 800


def test_the_federation_is_long_tailed_over_all_clinics_together() -> None:
    labels = np.repeat(np.arange(5), 400)
    patients = drawn(3).permutation(2000) // 10
    skew = a_skew(deal="patient", clinics=4, long_tail={"imbalance": 50.0})
    clinics = derived(a_table(labels, patients), skew)
    counts = np.sort(sum(np.bincount(clinic.labels, minlength=5) for clinic in clinics.values()))[::-1]
    assert counts.tolist() == [400, 150, 57, 21, 8]


def test_kinds_combine() -> None:
    labels = np.repeat(np.arange(5), 300)
    patients = drawn(3).permutation(1500) // 10
    at = {"virtual-2": {"missing": ["basophil"], "noise": 0.2}, "virtual-3": {"keep": 0.5}}
    skew = a_skew(deal="patient", clinics=3, label_alpha=2.0, long_tail={"imbalance": 10.0}, at=at)
    clinics = derived(a_table(labels, patients), skew)
    rows = np.concatenate([clinic.row for clinic in clinics.values()])
    assert len(rows) == len(set(rows))
    true = np.bincount(labels[rows], minlength=5)
    assert true[0] <= 300
    assert (labels[clinics["virtual-2"].row] != WBC5.index("basophil")).all()
    assert not set(clinics["virtual-1"].groups) & set(clinics["virtual-2"].groups)


def test_a_change_of_one_kind_leaves_the_draws_of_the_others() -> None:
    table = a_table(np.arange(600) % 5, np.arange(600) // 6)
    plain = derived(table, a_skew(deal="patient", clinics=3))
    noisy = derived(table, a_skew(deal="patient", clinics=3, at={"virtual-2": {"noise": 0.2}}))
    assert all(np.array_equal(plain[name].row, noisy[name].row) for name in plain)
    assert np.array_equal(plain["virtual-1"].allowed, noisy["virtual-1"].allowed)


def test_sources_that_are_not_pooled_stay_as_they_are() -> None:
    east, west = a_table(np.arange(50) % 5), a_table(np.arange(30) % 5, source=1)
    skew = a_skew(deal="cell", clinics=2)
    clinics = derive_clinics({"east": east, "west": west}, ("east",), skew, WBC5, trains=skew.virtual_clinics)
    assert list(clinics) == ["virtual-1", "virtual-2", "west"]
    assert np.array_equal(clinics["west"].row, west.row)


def test_patients_of_two_pooled_clinics_with_one_number_are_two_patients() -> None:
    tables = {name: a_table(np.arange(30) % 5, np.zeros(30), source=number) for number, name in enumerate("ab")}
    skew = a_skew(deal="patient", clinics=2)
    clinics = derive_clinics(tables, ("a", "b"), skew, WBC5, trains=skew.virtual_clinics)
    assert sorted(set(clinic.source).pop() for clinic in clinics.values()) == [0, 1]
    assert all(len(set(clinic.source)) == 1 for clinic in clinics.values())


def test_names_of_many_virtual_clinics_sort_as_they_count() -> None:
    names = a_skew(deal="cell", clinics=12).virtual_clinics
    assert names[0] == "virtual-01"
    assert list(names) == sorted(names)
