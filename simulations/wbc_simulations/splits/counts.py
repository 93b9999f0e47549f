"""What `wbc-simulate splits` shows before anything is trained: who has how many cells of which class.

Counts are of labels as the clinics have them, so noise and coarse words show. In-silico cells are counted without being
rendered.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wbc_client.dataset.cell_set import SPLITS, CellSet
from wbc_client.dataset.opening import read_cells
from wbc_client.dataset.packed import packed_metadata, read_packed
from wbc_common.study import Role, StudyConfig
from wbc_simulations.clinics import unrendered_clinic
from wbc_simulations.experiment import Experiment
from wbc_simulations.real_cells import real_cells, real_site
from wbc_simulations.skew.settings import ClinicSkew
from wbc_simulations.skew.table import CellTable, table_of
from wbc_simulations.skewed import skewed_tables, sources_of


@dataclass(frozen=True)
class ClinicSplit:
    """The cells of one clinic, counted.

    Attributes:
        counts: int64 [3, C], cells with an exact label by split and class.
        coarse: int64 [3], cells with a coarse label by split.
        patients: patients, slides or near-duplicate components.
        missing: classes that its settings take from it.
        flags: what else its settings say, in words.
    """

    clinic: str
    role: Role
    counts: NDArray[np.int64]
    coarse: NDArray[np.int64]
    patients: int
    missing: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()

    @property
    def cells(self) -> NDArray[np.int64]:
        """int64 [3]: cells of train, val and test."""
        return np.asarray(self.counts.sum(axis=1) + self.coarse)


def count_splits(experiment: Experiment, study: StudyConfig) -> list[ClinicSplit]:
    """Every clinic of the study, training clinics first, in the study's order.

    Raises:
        SettingError, DataError: the cells cannot be read or do not suffice for the skew.
    """
    names = (*study.clinics.train, *study.clinics.held_out)
    if experiment.data.skew.is_plain:
        tables = {name: table_of(_countable(name, experiment, study), 0) for name in names}
    else:
        sources = {name: _countable(name, experiment, study) for name in sources_of(experiment, study)}
        tables = skewed_tables(experiment, study, sources)
    return [_counted(name, tables[name], experiment, study) for name in names]


def splits_as_json(splits: Sequence[ClinicSplit], study: StudyConfig) -> dict[str, Any]:
    """The counts for a script."""
    return {
        "study": study.name,
        "plan": study.hash,
        "classes": list(study.classes.classes),
        "clinics": [
            {
                "clinic": split.clinic,
                "role": split.role,
                "patients": split.patients,
                "class_counts": dict(zip(SPLITS, split.counts.tolist(), strict=True)),
                "coarse": dict(zip(SPLITS, split.coarse.tolist(), strict=True)),
                "missing": list(split.missing),
                "flags": list(split.flags),
            }
            for split in splits
        ],
    }


def _countable(name: str, experiment: Experiment, study: StudyConfig) -> CellSet:
    """The cells of a source; in-silico ones without pixels."""
    data = experiment.data
    if data.kind == "phantom":
        clinic = next(clinic for clinic in data.clinics if clinic.clinic == name)
        return unrendered_clinic(clinic, study.classes, seed=data.seed)
    if data.skew.is_plain:
        return read_cells(real_site(name, data), study).cells
    return read_packed(real_cells(name, data, study), packed_metadata(study.classes, study.images))


def _counted(name: str, cells: CellTable, experiment: Experiment, study: StudyConfig) -> ClinicSplit:
    labels, num_classes = cells.labels, len(study.classes)
    counts = np.zeros((len(SPLITS), num_classes + 1), dtype=np.int64)  # the last column: coarse, label −1
    np.add.at(counts, (cells.split, labels), 1)
    at = experiment.data.skew.at.get(name, ClinicSkew())
    rendered = {clinic.clinic: clinic.missing for clinic in experiment.data.clinics}
    role = study.role(name)
    return ClinicSplit(
        clinic=name,
        role=role,
        counts=counts[:, :num_classes],
        coarse=counts[:, num_classes],
        patients=len(np.unique(cells.groups)),
        missing=tuple(dict.fromkeys((*at.missing, *rendered.get(name, ())))),
        flags=_flags(at, role),
    )


def _flags(at: ClinicSkew, role: Role) -> tuple[str, ...]:
    flags = []
    if at.noise > 0 and role == "train":
        flags.append(f"{at.noise:.0%} wrong labels" + (", neighbours" if at.noise_to == "neighbours" else ""))
    if at.labels is not None and role == "train":
        flags.append(f"{at.labels} words")
    if at.long_tail is not None:
        flags.append(f"long tail {at.long_tail.imbalance:g}")
    if at.keep < 1:
        flags.append(f"{at.keep:.0%} of its cells")
    return tuple(flags)
