"""The class registries and what the words of the data sets mean in them."""

import csv
from pathlib import Path
from types import MappingProxyType

import pytest

from wbc_common import cell_words
from wbc_common.cells import BLASTS, CLASSES_13, REGISTRIES, Registry, normalise_label, registry
from wbc_common.errors import DataError, SettingError

NUM_CLASSES = {"wbc5": 5, "wbc11": 11, "wbc13": 13}


@pytest.mark.parametrize("name", NUM_CLASSES)
def test_a_registry_has_its_classes_once_and_each_means_itself(name: str) -> None:
    found = registry(name)
    assert len(found) == len(set(found.classes)) == NUM_CLASSES[name]
    assert [found.resolve(cell) for cell in found.classes] == [(index,) for index in range(len(found))]
    assert [found.index(cell) for cell in found.classes] == list(range(len(found)))


@pytest.mark.parametrize("name", NUM_CLASSES)
def test_every_word_is_stored_as_it_is_looked_up_and_allows_classes_that_exist(name: str) -> None:
    found = registry(name)
    for word, indices in found.meaning.items():
        assert normalise_label(word) == word
        assert list(indices) == sorted(set(indices))
        assert set(indices) <= set(range(len(found)))


def test_all_registries_know_the_same_words() -> None:
    words = [set(found.meaning) for found in REGISTRIES.values()]
    assert words[0] == words[1] == words[2]


def test_whatever_has_a_class_among_5_or_11_has_one_among_13() -> None:
    finest = registry("wbc13")
    for name in ("wbc5", "wbc11"):
        assert all(finest.meaning[word] for word, indices in registry(name).meaning.items() if indices)


@pytest.mark.parametrize(
    ("name", "label", "allowed"),
    [
        ("wbc13", "Neutrophil", ("band_neutrophil", "segmented_neutrophil")),
        ("wbc13", "lymphocyte", ("typical_lymphocyte", "atypical_lymphocyte")),
        ("wbc13", "ig", ("promyelocyte", "myelocyte", "metamyelocyte")),
        ("wbc11", "neutrophil", ("segmented_neutrophil", "band_neutrophil")),
        ("wbc11", "lyt", ("lymphocyte",)),
        ("wbc11", "smudge", ()),
        ("wbc5", "NGB", ("neutrophil",)),
        ("wbc5", "reactive lymphocyte", ("lymphocyte",)),
        ("wbc5", "erythroblast", ()),
        ("wbc5", "ig", ()),
        ("wbc13", "platelet", ()),
        ("wbc13", "Neutrophil, segmented", ("segmented_neutrophil",)),
        ("wbc13", "monoblast", ()),
        ("wbc11", "FGC", ("promyelocyte",)),
    ],
)
def test_a_label_allows_the_classes_it_can_mean(name: str, label: str, allowed: tuple[str, ...]) -> None:
    found = registry(name)
    assert {found.classes[index] for index in found.resolve(label)} == set(allowed)


@pytest.mark.parametrize(
    ("data_set", "words"),
    [
        ("Matek-19", "BAS EBO EOS KSC LYA LYT MMZ MOB MON MYB MYO NGB NGS PMB PMO"),
        ("Matek-21", "ABE ART BAS BLA EBO EOS FGC HAC KSC LYI LYT MMZ MON MYB NGB NGS NIF OTH PEB PLM PMO"),
        ("Acevedo-20", "BA EO ERB IG LY MMY MO MY BNE SNE PMY platelet neutrophil"),
        ("Raabin", "Neutrophil,Large Lymph,Small Lymph,Monocyte,Eosinophil,Basophil,Band,Meta,Burst,Artifact"),
        ("LISC", "Baso eosi lymp mixt mono neut"),
        ("MLL23", "Neutrophil (band),Lymphocyte (reactive),Promyelocyte (atypical),Hairy cell,Plasma cell,Normoblast"),
    ],
)
def test_a_published_data_set_is_read_by_its_own_words(data_set: str, words: str) -> None:
    for word in words.split("," if "," in words else " "):
        for found in REGISTRIES.values():
            found.resolve(word)


def test_no_word_stands_for_two_things() -> None:
    assert sum(len(words.split()) for words in cell_words._OF.values()) == len(cell_words.WORDS)
    assert set(cell_words.WORDS).isdisjoint(CLASSES_13)


@pytest.mark.parametrize("written", ["Band Neutrophil", " band-neutrophil ", "BAND_NEUTROPHIL", "band  neutrophil"])
def test_case_and_separators_do_not_matter(written: str) -> None:
    assert registry("wbc13").resolve(written) == (registry("wbc13").index("band_neutrophil"),)


def test_a_clinics_own_word_goes_before_the_known_ones() -> None:
    five = registry("wbc5")
    assert five.resolve("Stab Cell", {"stab-cell": "Band"}) == (five.index("neutrophil"),)
    assert five.resolve("mo", {"MO": "other"}) == ()


def test_an_unknown_label_is_refused_with_the_nearest_known_ones() -> None:
    with pytest.raises(DataError, match=r"'Monocite' is not known to the class registry wbc5; .*monocyte"):
        registry("wbc5").resolve("Monocite")


def test_an_own_word_that_stands_for_an_unknown_one_is_refused() -> None:
    with pytest.raises(DataError, match="'stab' is not known"):
        registry("wbc5").resolve("stab", {"stab": "stabby"})


def test_an_unknown_registry_is_refused_with_those_that_exist() -> None:
    with pytest.raises(SettingError, match="wbc5, wbc11, wbc13"):
        registry("wbc7")


def test_the_digest_changes_with_order_name_and_meaning_and_with_nothing_else() -> None:
    one = Registry("r", ("a", "b"), MappingProxyType({"x": (0,), "y": (1,)}))
    turned = Registry("r", ("a", "b"), MappingProxyType({"y": (1,), "x": (0,)}))
    assert one.digest == turned.digest
    others = [
        Registry("r", ("b", "a"), one.meaning),
        Registry("s", ("a", "b"), one.meaning),
        Registry("r", ("a", "b"), MappingProxyType({"x": (0,), "y": (0,)})),
        Registry("r", ("a", "b"), MappingProxyType({"x": (0,), "y": (1,), "z": ()})),
    ]
    assert len({one.digest, *(other.digest for other in others)}) == 5


def test_each_registry_has_a_digest_of_its_own() -> None:
    assert len({found.digest for found in REGISTRIES.values()}) == 3


def test_blasts_are_classes_of_the_finest_registry() -> None:
    assert set(BLASTS) <= set(CLASSES_13)


def test_our_label_map_agrees_with_the_class_columns_of_the_real_cells(real_data: Path) -> None:
    with (real_data / "manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows
    for column, name in (("class5", "wbc5"), ("class13", "wbc13")):
        found = registry(name)
        for row in {(row["label"], row[column]) for row in rows}:
            label, stated = row
            if stated:
                assert set(found.resolve(stated)) <= set(found.resolve(label)), (label, stated)
