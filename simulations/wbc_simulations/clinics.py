"""Makes the clinics of a simulation: one clinic file each, and the cells it points to.

Cells are rendered once and kept in a cache, keyed by everything they depend on, so that seeds and methods share them.
Real cells are read where they lie, unless a skew makes new clinics of them.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tomli_w
import torch
from numpy.typing import NDArray

from wbc_client.dataset.cell_set import CellSet
from wbc_client.dataset.packed import packed_metadata, write_packed
from wbc_client.dataset.splits import assign_splits
from wbc_client.state.draw_seed import keep_bootstrap_seed
from wbc_common.cells import CLASSES_13, Registry
from wbc_common.errors import SettingError
from wbc_common.seeds import derive_seed, numpy_generator
from wbc_common.study import StudyConfig
from wbc_simulations.cell_cache import cell_file, write_once
from wbc_simulations.experiment import Experiment, PhantomClinic
from wbc_simulations.phantom import case_mix, load_domain, render
from wbc_simulations.real_cells import real_cells, real_source
from wbc_simulations.skewed import skewed_cells


def write_clinics(experiment: Experiment, study: StudyConfig, run: Path) -> Path:
    """Write `clinics/NAME.toml` in a run's folder, making cells that the cache lacks; returns that folder."""
    for name, data in _data_of_clinics(experiment, study).items():
        write_clinic(run, name, data)
    return run / "clinics"


def write_clinic(run: Path, name: str, data: Mapping[str, object]) -> None:
    """Write a clinic's file into a run's folder, and the seed of its draws, which follows from its name in silico."""
    file = run / "clinics" / f"{name}.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    values = {"clinic": name, "study": "../study.toml", "state_dir": f"../sites/{name}", "data": data}
    file.write_bytes(tomli_w.dumps(values).encode())
    keep_bootstrap_seed(run / "sites" / name, derive_seed("bootstrap", name))


def _data_of_clinics(experiment: Experiment, study: StudyConfig) -> dict[str, dict[str, object]]:
    """What each clinic file says under [data]."""
    names = (*study.clinics.train, *study.clinics.held_out)
    if not experiment.data.skew.is_plain:
        files = skewed_cells(experiment, study, lambda name: source_cells(name, experiment, study))
        return {name: {"kind": "packed", "path": str(files[name])} for name in names}
    if experiment.data.kind == "phantom":
        return {name: {"kind": "packed", "path": str(source_cells(name, experiment, study))} for name in names}
    return {name: real_source(name, experiment.data) for name in names}


def source_cells(name: str, experiment: Experiment, study: StudyConfig) -> Path:
    """The packed cells of a clinic that cells come from, as they are before any skew."""
    if experiment.data.kind == "manifest":
        return real_cells(name, experiment.data, study)
    clinic = next(clinic for clinic in experiment.data.clinics if clinic.clinic == name)
    return phantom_cells(clinic, study, experiment.data.seed)


def phantom_cells(clinic: PhantomClinic, study: StudyConfig, seed: int) -> Path:
    """The packed cells of an in-silico clinic, rendered if the cache lacks them."""
    mixes = {case: dict(case_mix(case)) for case in clinic.case_mix}
    path = cell_file(
        clinic.clinic,
        clinic.model_dump(mode="json", exclude={"role"}),
        load_domain(clinic.domain).model_dump(mode="json"),
        mixes,
        study.classes.digest,
        study.images.source_px,
        seed,
    )
    if not path.exists():
        cells = render_clinic(clinic, study.classes, size_px=study.images.source_px, seed=seed)
        metadata = packed_metadata(study.classes, study.images)
        write_once(path, lambda own: write_packed(cells, own, metadata))
    return path


def render_clinic(clinic: PhantomClinic, registry: Registry, *, size_px: int, seed: int) -> CellSet:
    """The cells of an in-silico clinic: patients drawn from its case mix, cells drawn from each patient's case."""
    return _labelled(*render_cells(clinic, size_px=size_px, seed=seed), registry, clinic.clinic)


def render_cells(
    clinic: PhantomClinic, *, size_px: int, seed: int
) -> tuple[torch.Tensor, NDArray[np.int64], NDArray[np.int64]]:
    """Images uint8 [N, 3, H, W] of an in-silico clinic; class among the 13 and patient of each, int64 [N] both."""
    finest, patients = _draw_cells(clinic, seed)
    images = render(
        torch.from_numpy(finest),
        torch.from_numpy(patients),
        load_domain(clinic.domain),
        size_px=size_px,
        seed=derive_seed(seed, "cells", clinic.clinic),
    )
    return images, finest, patients


def unrendered_clinic(clinic: PhantomClinic, registry: Registry, *, seed: int) -> CellSet:
    """The cells of `render_clinic` with images of no pixel: enough to count and to deal them."""
    finest, patients = _draw_cells(clinic, seed)
    no_pixels = torch.empty(len(finest), 3, 0, 0, dtype=torch.uint8)
    return _labelled(no_pixels, finest, patients, registry, clinic.clinic)


def _draw_cells(clinic: PhantomClinic, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Class among the 13 and patient of each cell, int64 [N] both."""
    patients = np.arange(clinic.cells, dtype=np.int64) % clinic.patients
    return draw_classes(clinic, patients, numpy_generator(seed, "clinic", clinic.clinic)), patients


def _labelled(
    images: torch.Tensor, finest: NDArray[np.int64], patients: NDArray[np.int64], registry: Registry, clinic: str
) -> CellSet:
    """The cells that the registry has a class for, split by patient."""
    allowed = torch.zeros(len(finest), len(registry), dtype=torch.bool)
    for row, cell_class in enumerate(finest):
        allowed[row, list(registry.resolve(CLASSES_13[cell_class]))] = True
    kept = allowed.any(dim=1).numpy()
    split = assign_splits(finest[kept], patients[kept], derive_seed(clinic, "split"))
    return CellSet(images[kept], allowed[kept], torch.from_numpy(patients[kept]), torch.from_numpy(split))


def draw_classes(clinic: PhantomClinic, patients: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A class among the 13 for each cell int64 [N], by the case of its patient; `patients` int64 [N].

    Raises:
        SettingError: an unknown case or class, or nothing is left to draw from.
    """
    strangers = sorted(set(clinic.missing) - set(CLASSES_13))
    if strangers:
        raise SettingError(
            f"clinic '{clinic.clinic}' misses unknown classes {', '.join(strangers)}",
            remedy=f"choose among {', '.join(CLASSES_13)}",
        )
    shares = np.array(list(clinic.case_mix.values()))
    if (shares < 0).any() or shares.sum() <= 0:
        raise SettingError(f"case mix of clinic '{clinic.clinic}' has no positive share", remedy="give shares above 0")
    mixes = np.stack([_mix(case, clinic) for case in clinic.case_mix])  # [cases, 13]
    cases = generator.choice(len(mixes), size=clinic.patients, p=shares / shares.sum())
    cumulative = mixes[cases[patients]].cumsum(axis=1)  # [N, 13]
    drawn = (generator.random(len(patients))[:, None] > cumulative).sum(axis=1)
    classes: np.ndarray = np.minimum(drawn, len(CLASSES_13) - 1).astype(np.int64)
    return classes


def _mix(case: str, clinic: PhantomClinic) -> np.ndarray:
    fractions = np.array([0.0 if name in clinic.missing else case_mix(case).get(name, 0.0) for name in CLASSES_13])
    if fractions.sum() <= 0:
        raise SettingError(
            f"clinic '{clinic.clinic}' misses every class of case '{case}'", remedy="let it miss fewer classes"
        )
    return np.asarray(fractions / fractions.sum())
