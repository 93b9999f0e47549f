"""What every reader of files returns: which image has which label, before a pixel is decoded.

Labels are resolved here, all at once, so that a clinic learns of all its unknown words in one go. Names of files and
patients live in these records only; they end at `opening`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wbc_common.cells import Registry
from wbc_common.errors import DataError, SettingError

NO_LABEL = "(no label)"
SPLIT_WORDS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class LabelledFile:
    """One image file as a reader found it.

    Attributes:
        path: where it is.
        name: how the clinic names it: as written in the manifest, or below the data folder.
        label: the clinic's word; empty where there is none.
        place: where the label was read, e.g. "line 7".
        group: patient, slide or field; empty where unknown.
        near_duplicate: cluster of near-duplicates; empty where unknown.
        split: "train", "val", "test"; empty where the clinic states none.
        um_per_px: micrometres per pixel, where known.
    """

    path: Path
    name: str
    label: str
    place: str
    group: str = ""
    near_duplicate: str = ""
    split: str = ""
    um_per_px: float | None = None


@dataclass(frozen=True)
class Listing:
    """The files that hold cells of the registry.

    Attributes:
        files: one per cell.
        allowed: for each file the indices of the classes that its label allows.
        left_out: label → number of files whose label has no place in the registry.
    """

    files: tuple[LabelledFile, ...]
    allowed: tuple[tuple[int, ...], ...]
    left_out: dict[str, int]


def resolve_labels(files: Sequence[LabelledFile], registry: Registry, own_words: Mapping[str, str]) -> Listing:
    """The files with their classes.

    Raises:
        SettingError: an own word stands for a label that nobody knows.
        DataError: naming every unknown label, how often it occurs and one place of each.
    """
    _check_own_words(registry, own_words)
    meaning: dict[str, tuple[int, ...] | None] = {"": ()}
    for label in {file.label for file in files} - {""}:
        try:
            meaning[label] = registry.resolve(label, own_words)
        except DataError:
            meaning[label] = None
    unknown = [file for file in files if meaning[file.label] is None]
    if unknown:
        raise _unknown_labels(unknown, registry)
    kept = [(file, classes) for file in files if (classes := meaning[file.label])]
    left_out = Counter(file.label or NO_LABEL for file in files if not meaning[file.label])
    return Listing(
        tuple(file for file, _ in kept), tuple(classes for _, classes in kept), dict(sorted(left_out.items()))
    )


def _check_own_words(registry: Registry, own_words: Mapping[str, str]) -> None:
    for word, target in own_words.items():
        try:
            registry.resolve(target)
        except DataError as error:
            raise SettingError(
                f'[data.labels] "{word}" = "{target}": {error.problem}',
                remedy=f"use one of {', '.join(registry.classes)}",
            ) from error


def _unknown_labels(unknown: Sequence[LabelledFile], registry: Registry) -> DataError:
    counts = Counter(file.label for file in unknown)
    first = {file.label: file.place for file in reversed(unknown)}
    listed = "; ".join(f"'{label}' ({count} ×, first at {first[label]})" for label, count in counts.most_common())
    return DataError(
        f"{len(counts)} label(s) are not known to the class registry {registry.name}: {listed}",
        remedy='say what each means in the clinic file, e.g. [data.labels] "own word" = "monocyte", '
        'or = "other" to leave it out',
    )
