"""The cell classes, and how the words of the published data sets map onto them.

Three registries: the 13 classes of the line of work, the 11 harmonised ones, and the coarse 5. A label resolves to the
*set* of classes it allows: one for an exact label, several for a coarser one ("neutrophil" among 13 classes is band or
segmented), none for a thing that is no cell of the registry (a platelet; an erythroblast among 5 classes). A label
nobody knows is an error. All parties must share the registry's `digest`: it covers the class names, their order and the
whole label map.
"""

import difflib
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from wbc_common.cell_words import WORDS
from wbc_common.errors import DataError, SettingError
from wbc_common.head_rows import NO_CLASS, HeadRows, one_row_a_class

CLASSES_13 = (
    "basophil",
    "eosinophil",
    "erythroblast",
    "myeloblast",
    "promyelocyte",
    "myelocyte",
    "metamyelocyte",
    "band_neutrophil",
    "segmented_neutrophil",
    "monocyte",
    "typical_lymphocyte",
    "atypical_lymphocyte",
    "smudge_cell",
)
CLASSES_11 = (
    "segmented_neutrophil",
    "band_neutrophil",
    "eosinophil",
    "basophil",
    "lymphocyte",
    "monocyte",
    "erythroblast",
    "myeloblast",
    "promyelocyte",
    "myelocyte",
    "metamyelocyte",
)
CLASSES_5 = ("neutrophil", "lymphocyte", "monocyte", "eosinophil", "basophil")

BLASTS = ("myeloblast",)

_COARSER_11 = {"typical_lymphocyte": "lymphocyte", "atypical_lymphocyte": "lymphocyte"}
_COARSER_5 = {
    "band_neutrophil": "neutrophil",
    "segmented_neutrophil": "neutrophil",
    "typical_lymphocyte": "lymphocyte",
    "atypical_lymphocyte": "lymphocyte",
}


def normalise_label(label: str) -> str:
    """A label as it is looked up: lower case, words joined by one underscore, no commas, slashes or brackets."""
    return "_".join(re.sub(r"[-_,/()]", " ", label).lower().split())


@dataclass(frozen=True)
class Registry:
    """The classes of a study in their fixed order, and the meaning of every known label.

    Attributes:
        name: "wbc5", "wbc11" or "wbc13".
        classes: the C class names; a class's index is its place here.
        meaning: normalised label → indices of the classes it allows, ascending; empty for "no cell of this registry".
    """

    name: str
    classes: tuple[str, ...]
    meaning: Mapping[str, tuple[int, ...]]

    def __len__(self) -> int:
        return len(self.classes)

    def index(self, cell_class: str) -> int:
        """The index of a class by its own name."""
        return self.classes.index(cell_class)

    def resolve(self, label: str, extra: Mapping[str, str] | None = None) -> tuple[int, ...]:
        """The classes that `label` allows.

        Args:
            label: a word of a data set, any case.
            extra: a clinic's own words and the known label each stands for.

        Raises:
            DataError: nobody knows the label.
        """
        word = normalise_label(label)
        known = {normalise_label(own): normalise_label(target) for own, target in (extra or {}).items()}
        word = known.get(word, word)
        if word not in self.meaning:
            raise DataError(_unknown_label(label, self), remedy=_LABEL_REMEDY)
        return self.meaning[word]

    def head_rows(self, *, fine: bool) -> HeadRows:
        """The rows of a network's head for these classes: a row a class, or a row for each of the 13."""
        if not fine:
            return one_row_a_class(self.classes)
        classes = (self.meaning[name] for name in CLASSES_13)
        return HeadRows(CLASSES_13, tuple(own[0] if own else NO_CLASS for own in classes), len(self))

    @property
    def digest(self) -> str:
        """SHA-256 over names, order and label map; equal at every party of a study."""
        canonical = json.dumps([self.name, self.classes, sorted(self.meaning.items())])
        return hashlib.sha256(canonical.encode()).hexdigest()


_LABEL_REMEDY = (
    'say what it means in the clinic file, e.g. [data.labels] "own word" = "monocyte", or = "other" to leave it out'
)


def _unknown_label(label: str, registry: Registry) -> str:
    close = difflib.get_close_matches(normalise_label(label), registry.meaning, n=3)
    hint = f"; the nearest known: {', '.join(close)}" if close else ""
    return f"label '{label}' is not known to the class registry {registry.name}{hint}"


def _registry(name: str, classes: tuple[str, ...], coarser: Mapping[str, str]) -> Registry:
    def indices(finest: tuple[str, ...]) -> tuple[int, ...]:
        names = {coarser.get(cell, cell) for cell in finest}
        # A coarse label of which a part has no place here would be a wrong training signal: it is left out.
        known = names <= set(classes)
        return tuple(sorted(classes.index(cell) for cell in names)) if known else ()

    meaning = {**{cell: indices((cell,)) for cell in CLASSES_13}, **{word: indices(m) for word, m in WORDS.items()}}
    return Registry(name, classes, MappingProxyType(meaning))


REGISTRIES: Mapping[str, Registry] = MappingProxyType(
    {
        "wbc5": _registry("wbc5", CLASSES_5, _COARSER_5),
        "wbc11": _registry("wbc11", CLASSES_11, _COARSER_11),
        "wbc13": _registry("wbc13", CLASSES_13, {}),
    }
)


def registry(name: str) -> Registry:
    """The registry of that name.

    Raises:
        SettingError: there is none.
    """
    if name not in REGISTRIES:
        raise SettingError(f"class registry '{name}' does not exist", remedy=f"choose one of {', '.join(REGISTRIES)}")
    return REGISTRIES[name]


def registry_of(classes: tuple[str, ...]) -> Registry | None:
    """The registry of these classes in this order; None if there is none."""
    return next((found for found in REGISTRIES.values() if found.classes == classes), None)
