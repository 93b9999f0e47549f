"""Wrong, coarse and missing labels of dealt clinics."""

import itertools

import numpy as np
import pytest

from dealt import WBC5, WBC13, a_skew, a_table, derived, drawn
from wbc_client.dataset.cell_set import SPLITS
from wbc_common.errors import SettingError
from wbc_simulations.skew.deriving import derive_clinics
from wbc_simulations.skew.faults import any_other_class, coarse_sets, maturation_neighbours, noisy_labels
from wbc_simulations.skew.table import CellTable
from wbc_simulations.skew.thinning import in_share


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
