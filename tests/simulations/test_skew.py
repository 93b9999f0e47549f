"""Clinic splits: properties that hold for any cells, and numbers that can be checked by hand."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wbc_client.dataset.cell_set import SPLITS
from wbc_common.cells import registry
from wbc_common.errors import SettingError
from wbc_common.study import validated
from wbc_simulations.skew.dealing import apportion, deal, deal_cells, draw_shares, draw_sizes
from wbc_simulations.skew.deriving import derive_clinics
from wbc_simulations.skew.faults import any_other_class, coarse_sets, maturation_neighbours, noisy_labels
from wbc_simulations.skew.settings import LongTail, Sizes, Skew, check_skew
from wbc_simulations.skew.table import CellTable
from wbc_simulations.skew.thinning import in_share, long_tail_counts

WBC5, WBC11, WBC13 = registry("wbc5"), registry("wbc11"), registry("wbc13")


def a_table(labels: Any, groups: Any = None, *, num_classes: int = 5, source: int = 0, split: Any = None) -> CellTable:
    labels = np.asarray(labels, dtype=np.int64)
    groups = np.arange(len(labels)) if groups is None else np.asarray(groups)
    split = groups % 3 if split is None else np.asarray(split)
    allowed = np.eye(num_classes, dtype=np.bool_)[labels]
    return CellTable(
        allowed, groups.astype(np.int64), split.astype(np.int64), np.full(len(labels), source), np.arange(len(labels))
    )


def a_skew(**values: Any) -> Skew:
    return validated(Skew, values, "skew")


def drawn(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def derived(table: CellTable, skew: Skew, **options: Any) -> dict[str, CellTable]:
    names = skew.virtual_clinics or ("east",)
    return derive_clinics({"east": table}, ("east",), skew, WBC5, **{"trains": names, **options})


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


@pytest.mark.parametrize("rate", [0.1, 0.4])
def test_symmetric_noise_has_its_rate_and_reaches_every_other_class_alike(rate: float) -> None:
    labels = np.arange(50_000) % 5
    noisy = noisy_labels(labels, rate, any_other_class(WBC5), drawn())
    wrong = noisy != labels
    margin = 4 * np.sqrt(rate * (1 - rate) / len(labels))
    assert abs(wrong.mean() - rate) < margin
    shifts = np.bincount((noisy - labels)[wrong] % 5, minlength=5) / wrong.sum()
    assert shifts == pytest.approx([0, 0.25, 0.25, 0.25, 0.25], abs=0.02)


def test_confusable_noise_stays_on_the_maturation_axis() -> None:
    labels = np.arange(13_000) % 13
    noisy = noisy_labels(labels, 0.5, maturation_neighbours(WBC13), drawn())
    found = {(WBC13.classes[own], WBC13.classes[new]) for own, new in zip(labels, noisy, strict=True) if own != new}
    axis = ["myeloblast", "promyelocyte", "myelocyte", "metamyelocyte", "band_neutrophil", "segmented_neutrophil"]
    steps = list(itertools.pairwise(axis))
    assert found == {*steps, *((after, before) for before, after in steps)}


def test_coarse_labels_and_labels_off_the_axis_get_no_noise() -> None:
    labels = np.full(500, -1)
    assert (noisy_labels(labels, 0.9, any_other_class(WBC5), drawn()) == -1).all()
    monocytes = np.full(500, WBC13.index("monocyte"))
    assert (noisy_labels(monocytes, 0.9, maturation_neighbours(WBC13), drawn()) == monocytes).all()


def test_only_training_cells_of_a_training_clinic_get_wrong_labels() -> None:
    table = a_table(np.arange(3000) % 5, split=np.arange(3000) % 3)
    skew = a_skew(at={"east": {"noise": 0.3}})
    noisy = derived(table, skew)["east"]
    wrong = noisy.labels != table.labels
    trains = table.split == SPLITS.index("train")
    assert abs(wrong[trains].mean() - 0.3) < 4 * np.sqrt(0.21 / 1000)
    assert not wrong[~trains].any()
    held_out = derived(table, skew, trains=())["east"]
    assert np.array_equal(held_out.labels, table.labels)


def test_five_words_among_thirteen_classes_allow_what_each_word_can_mean() -> None:
    sets = coarse_sets(WBC13, WBC5)
    said = {WBC13.classes[own]: {WBC13.classes[place] for place in np.flatnonzero(row)} for own, row in enumerate(sets)}
    both_neutrophils = {"band_neutrophil", "segmented_neutrophil"}
    both_lymphocytes = {"typical_lymphocyte", "atypical_lymphocyte"}
    assert said["band_neutrophil"] == said["segmented_neutrophil"] == both_neutrophils
    assert said["typical_lymphocyte"] == said["atypical_lymphocyte"] == both_lymphocytes
    assert said["monocyte"] == {"monocyte"}
    assert said["myeloblast"] == said["smudge_cell"] == set()


def test_a_coarse_clinic_trains_on_sets_and_is_measured_by_exact_labels() -> None:
    labels = np.arange(1300) % 13
    table = a_table(labels, num_classes=13, split=np.arange(1300) // 13 % 3)
    skew = a_skew(at={"east": {"labels": "wbc5"}})
    cells = derive_clinics({"east": table}, ("east",), skew, WBC13, trains=("east",))["east"]
    trains = cells.split == 0
    assert set(cells.allowed[trains].sum(axis=1)) == {1, 2}
    assert set(cells.allowed[~trains].sum(axis=1)) == {1}
    assert set(cells.labels[~trains]) == set(range(13))
    blasts = table.labels == WBC13.index("myeloblast")  # five words have none for them: left out of training alone
    assert set(table.row[blasts & (table.split > 0)]) <= set(cells.row)
    assert not set(table.row[blasts & (table.split == 0)]) & set(cells.row)


def test_noise_comes_before_the_coarse_word() -> None:
    table = a_table(np.full(900, WBC13.index("myelocyte")), num_classes=13, split=np.zeros(900))
    skew = a_skew(at={"east": {"labels": "wbc5", "noise": 0.5, "noise_to": "neighbours"}})
    with pytest.raises(SettingError, match="without a training cell"):
        # A myelocyte is only ever mistaken for a promyelocyte or metamyelocyte, and five words know none of them.
        derive_clinics({"east": table}, ("east",), skew, WBC13, trains=("east",))


def test_a_missing_class_is_gone_with_every_label_that_could_mean_it() -> None:
    table = a_table(np.arange(100) % 5)
    coarse = table.allowed.copy()
    coarse[0, :2] = True  # cell 0: neutrophil or lymphocyte
    table = CellTable(coarse, table.groups, table.split, table.source, table.row)
    cells = derived(table, a_skew(at={"east": {"missing": ["lymphocyte"]}}))["east"]
    assert not cells.allowed[:, WBC5.index("lymphocyte")].any()
    assert len(cells) == 79
    assert 0 not in cells.row


def test_a_clinic_keeps_the_share_it_is_told() -> None:
    assert in_share(200, 0.25, drawn()).sum() == 50
    assert len(derived(a_table(np.arange(200) % 5), a_skew(at={"east": {"keep": 0.25}}))["east"]) == 50


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


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"deal": "cell"}, "needs 'clinics'"),
        ({"clinics": 3}, "'clinics' is for clinics that are dealt"),
        ({"label_alpha": 0.3}, "'label_alpha' is for clinics that are dealt"),
        ({"deal": "cell", "clinics": 3, "label_alpha": 0}, "label_alpha = 0: Input should be greater than 0"),
        ({"deal": "cell", "clinics": 0}, "clinics = 0"),
        ({"deal": "cell", "clinics": 3, "sizes": {"kind": "dirichlet"}}, "'alpha' is needed by sizes"),
        ({"deal": "cell", "clinics": 3, "sizes": {"alpha": 1.0}}, "'alpha' is for sizes of kind dirichlet"),
        ({"deal": "cell", "clinics": 3, "sizes": {"kind": "dirichlet", "alpha": -1}}, "sizes.alpha = -1"),
        ({"long_tail": {"imbalance": 0.5}}, "long_tail.imbalance = 0.5"),
        ({"at": {"east": {"noise": 1.0}}}, "noise = 1.0"),
        ({"at": {"east": {"labels": "wbc7"}}}, "labels = 'wbc7'"),
        ({"deal": "clinic"}, "deal = 'clinic'"),
        ({"dael": "cell"}, "did you mean 'deal'"),
    ],
    ids=str,
)
def test_a_setting_that_cannot_be_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message.replace("(", r"\(").replace("'", ".")):
        a_skew(**values)


@pytest.mark.parametrize(
    ("values", "classes", "message"),
    [
        ({"at": {"nobody": {"noise": 0.1}}}, WBC5, "clinics that do not exist: nobody"),
        ({"at": {"east": {"missing": ["platypus"]}}}, WBC5, "unknown classes platypus"),
        ({"at": {"east": {"missing": list(WBC5.classes)}}}, WBC5, "names every class"),
        ({"at": {"east": {"labels": "wbc13"}}}, WBC5, "not coarser"),
        ({"at": {"east": {"labels": "wbc5"}}}, WBC5, "not coarser"),
        ({"at": {"east": {"noise": 0.1, "noise_to": "neighbours"}}}, WBC5, "no neighbouring classes"),
        ({"long_tail": {"imbalance": 5, "order": ["platypus"]}}, WBC5, "unknown classes platypus"),
    ],
    ids=str,
)
def test_what_does_not_fit_the_study_is_refused(values: dict[str, Any], classes: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        check_skew(a_skew(**values), classes, ["east"])


def test_neighbours_and_coarse_words_fit_the_finer_registries() -> None:
    for classes, labels in ((WBC13, "wbc11"), (WBC11, "wbc5")):
        at = {"east": {"noise": 0.1, "noise_to": "neighbours", "labels": labels}}
        check_skew(a_skew(at=at), classes, ["east"])


def test_more_clinics_than_patients_or_too_few_cells_are_refused() -> None:
    table = a_table(np.arange(60) % 5, np.arange(60) // 20)
    with pytest.raises(SettingError, match=r"3 patients .* among 4 clinics"):
        deal(table, a_skew(deal="patient", clinics=4), drawn())
    with pytest.raises(SettingError, match="60 cells among 7 clinics of at least 10"):
        deal(table, a_skew(deal="cell", clinics=7), drawn())
    with pytest.raises(SettingError, match="in 200 draws"):
        deal(table, a_skew(deal="cell", clinics=6, label_alpha=1e-5), drawn())


def test_an_imbalance_that_the_cells_cannot_show_is_refused() -> None:
    with pytest.raises(SettingError, match=r"imbalance = 1000: the first class can have 100 cells"):
        long_tail_counts(np.full(5, 100), LongTail(imbalance=1000), WBC5, place="data.skew.long_tail")
    order = tuple(name for name in WBC5.classes if name != "lymphocyte")
    with pytest.raises(SettingError, match="left out: lymphocyte"):
        long_tail_counts(np.full(5, 100), LongTail(imbalance=5, order=order), WBC5, place="data.skew.long_tail")


def test_a_clinic_left_without_a_cell_is_named() -> None:
    table = a_table(np.zeros(20, dtype=int))
    with pytest.raises(SettingError, match="leaves clinic 'east' without a cell"):
        derived(table, a_skew(at={"east": {"missing": ["neutrophil"]}}))
