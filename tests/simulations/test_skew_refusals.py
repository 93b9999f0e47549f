"""Skews that cannot be are refused with the reason."""

from typing import Any

import numpy as np
import pytest

from dealt import WBC5, WBC11, WBC13, a_skew, a_table, derived, drawn
from wbc_common.errors import SettingError
from wbc_simulations.skew.dealing import deal
from wbc_simulations.skew.settings import LongTail, check_skew
from wbc_simulations.skew.thinning import long_tail_counts


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
