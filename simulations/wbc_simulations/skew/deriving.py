"""From the tables of the sources to the table of every clinic of a study.

Order: long tail of the pool, dealing, then at each clinic missing classes, long tail, share of cells, splits, label
faults. Every step draws from a generator of its own name, so that changing one leaves the others' draws as they were.

Splits: clinics that stay as they are, and single cells, keep the splits of their source; clinics of dealt patients are
split anew by patient, unless the splits were given.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from wbc_client.dataset.cell_set import SPLITS
from wbc_client.dataset.splits import FOLDS, assign_splits
from wbc_common.cells import Registry, registry
from wbc_common.errors import SettingError
from wbc_common.seeds import derive_seed, numpy_generator
from wbc_simulations.skew.dealing import deal
from wbc_simulations.skew.faults import any_other_class, coarse_sets, maturation_neighbours, noisy_labels
from wbc_simulations.skew.settings import ClinicSkew, Skew
from wbc_simulations.skew.table import CellTable, pooled
from wbc_simulations.skew.thinning import in_long_tail, in_share, without_classes

log = logging.getLogger(__name__)


def derive_clinics(
    sources: Mapping[str, CellTable],
    pool: Sequence[str],
    skew: Skew,
    classes: Registry,
    *,
    trains: Collection[str],
    splits_are_given: bool = False,
) -> dict[str, CellTable]:
    """Every clinic that the skew makes of the sources: the virtual ones, and the sources that are not pooled.

    Args:
        sources: the clinics that the cells come from.
        pool: those that are pooled.
        trains: clinics that train in this study; only their training cells can have label faults.
        splits_are_given: keep the sources' splits in any case.

    Raises:
        SettingError: the cells do not suffice for what is asked.
    """
    clinics = {name: table for name, table in sources.items() if name not in pool}
    if pool:
        clinics |= _divide({name: sources[name] for name in pool}, skew, classes)
    anew = skew.virtual_clinics if skew.deal == "patient" and not splits_are_given else ()
    found = {
        name: _at_clinic(name, clinics[name], skew, classes, trains=name in trains, split_anew=name in anew)
        for name in sorted(clinics)
    }
    few = sum(len(np.unique(found[name].groups)) < FOLDS for name in anew)
    if few:
        log.warning("%d virtual clinics have fewer than %d patients or slides: all their cells train", few, FOLDS)
    return found


def _divide(sources: Mapping[str, CellTable], skew: Skew, classes: Registry) -> dict[str, CellTable]:
    """The pool, thinned and divided: among the virtual clinics, or as it came from its sources."""
    cells = pooled(list(sources.values()))
    place = np.repeat(np.arange(len(sources)), [len(table) for table in sources.values()])
    if skew.long_tail is not None:
        draws = numpy_generator(skew.seed, "skew", "long tail")
        kept = in_long_tail(cells.labels, skew.long_tail, classes, draws, place="data.skew.long_tail")
        cells, place = cells.subset(kept), place[kept]
    if skew.deal == "source":
        return {name: cells.subset(place == number) for number, name in enumerate(sources)}
    place = deal(cells, skew, numpy_generator(skew.seed, "skew", "deal"))
    return {name: cells.subset(place == number) for number, name in enumerate(skew.virtual_clinics)}


def _at_clinic(
    name: str, cells: CellTable, skew: Skew, classes: Registry, *, trains: bool, split_anew: bool
) -> CellTable:
    at = skew.at.get(name, ClinicSkew())
    cells = _thinned(name, cells, at, skew.seed, classes)
    if not len(cells):
        raise SettingError(f"data.skew leaves clinic '{name}' without a cell", remedy="let it miss fewer classes")
    if split_anew:
        cells = replace(cells, split=_split_by_patient(name, cells))
    if not trains:
        return cells
    cells = _with_faults(name, cells, at, skew.seed, classes)
    if not (cells.split == SPLITS.index("train")).any():
        raise SettingError(
            f"data.skew leaves training clinic '{name}' without a training cell",
            remedy="give it more patients or cells, or words for its classes",
        )
    return cells


def _split_by_patient(name: str, cells: CellTable) -> NDArray[np.int64]:
    """As a clinic splits its own cells; with too few patients for that, all train."""
    if len(np.unique(cells.groups)) < FOLDS:
        return np.zeros(len(cells), dtype=np.int64)
    return assign_splits(cells.strata, cells.groups, derive_seed(name, "split"))


def _thinned(name: str, cells: CellTable, at: ClinicSkew, seed: int, classes: Registry) -> CellTable:
    cells = cells.subset(without_classes(cells.allowed, at.missing, classes))
    if at.long_tail is not None:
        draws = numpy_generator(seed, "skew", "long tail", name)
        place = f"data.skew.at.{name}.long_tail"
        cells = cells.subset(in_long_tail(cells.labels, at.long_tail, classes, draws, place=place))
    if at.keep < 1:
        cells = cells.subset(in_share(len(cells), at.keep, numpy_generator(seed, "skew", "keep", name)))
    return cells


def _with_faults(name: str, cells: CellTable, at: ClinicSkew, seed: int, classes: Registry) -> CellTable:
    """The clinic's training cells as it labels them: wrong first, coarse then. All other cells keep their labels."""
    trains = cells.split == SPLITS.index("train")
    labels, allowed = cells.labels, cells.allowed.copy()
    if at.noise > 0:
        neighbours = any_other_class(classes) if at.noise_to == "any-class" else maturation_neighbours(classes)
        noisy = noisy_labels(labels, at.noise, neighbours, numpy_generator(seed, "skew", "noise", name))
        labels = np.where(trains, noisy, labels)
        allowed[labels >= 0] = np.eye(len(classes), dtype=np.bool_)[labels[labels >= 0]]
    if at.labels is not None:
        chosen = np.asarray(trains & (labels >= 0))
        allowed[chosen] = coarse_sets(classes, registry(at.labels))[labels[chosen]]
    cells = replace(cells, allowed=allowed)
    return cells.subset(np.asarray(allowed.any(axis=1)))
