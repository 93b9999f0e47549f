"""Makes the clinics of a simulation: one clinic file each, and for in-silico clinics the cells it points to.

Cells are rendered once and kept in a cache, keyed by everything they depend on, so that seeds and methods share them.
"""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import tomli_w
import torch

from wbc_client.dataset.cell_set import CellSet
from wbc_client.dataset.packed import packed_metadata, write_packed
from wbc_client.dataset.splits import assign_splits
from wbc_common.cells import CLASSES_13, Registry
from wbc_common.errors import SettingError
from wbc_common.seeds import derive_seed, numpy_generator
from wbc_common.study import StudyConfig
from wbc_simulations.experiment import Experiment, PhantomClinic
from wbc_simulations.phantom import case_mix, load_domain, render

_RENDERER = 1  # raised when the renderer's cells change, so that no old cell is taken from the cache
_OF_REAL_CELLS = {"path", "splits", "labels", "max_unreadable_fraction"}


def write_clinics(experiment: Experiment, study: StudyConfig, run: Path) -> Path:
    """Write `clinics/NAME.toml` in a run's folder, rendering cells that the cache lacks; returns that folder."""
    folder = run / "clinics"
    folder.mkdir(parents=True, exist_ok=True)
    phantoms = {clinic.clinic: clinic for clinic in experiment.data.clinics}
    for name in (*study.clinics.train, *study.clinics.held_out):
        if experiment.data.kind == "phantom":
            cells = phantom_cells(phantoms[name], study, experiment.data.seed)
            data: dict[str, object] = {"kind": "packed", "path": str(cells)}
        else:
            source = experiment.data.model_dump(mode="json", include=_OF_REAL_CELLS)
            data = {"kind": "manifest", "clinic": name, **source}
        values = {"clinic": name, "study": "../study.toml", "state_dir": f"../sites/{name}", "data": data}
        (folder / f"{name}.toml").write_bytes(tomli_w.dumps(values).encode())
    return folder


def phantom_cells(clinic: PhantomClinic, study: StudyConfig, seed: int) -> Path:
    """The packed cells of an in-silico clinic, rendered if the cache lacks them."""
    path = cache_folder() / f"{clinic.clinic}-{_cache_key(clinic, study, seed)}.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        cells = render_clinic(clinic, study.classes, size_px=study.images.source_px, seed=seed)
        # Runs side by side may render the same clinic at once: each writes a file of its own, the last one stays.
        own = path.with_name(f"{path.stem}.{os.getpid()}{path.suffix}")
        write_packed(cells, own, packed_metadata(study.classes, study.images.source_px))
        own.replace(path)
    return path


def render_clinic(clinic: PhantomClinic, registry: Registry, *, size_px: int, seed: int) -> CellSet:
    """The cells of an in-silico clinic: patients drawn from its case mix, cells drawn from each patient's case."""
    generator = numpy_generator(seed, "clinic", clinic.clinic)
    patients = np.arange(clinic.cells, dtype=np.int64) % clinic.patients  # [N]
    finest = draw_classes(clinic, patients, generator)
    images = render(
        torch.from_numpy(finest),
        torch.from_numpy(patients),
        load_domain(clinic.domain),
        size_px=size_px,
        seed=derive_seed(seed, "cells", clinic.clinic),
    )
    allowed = torch.zeros(len(finest), len(registry), dtype=torch.bool)
    for row, cell_class in enumerate(finest):
        allowed[row, list(registry.resolve(CLASSES_13[cell_class]))] = True
    kept = allowed.any(dim=1).numpy()
    split = assign_splits(finest[kept], patients[kept], derive_seed(clinic.clinic, "split"))
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


def cache_folder() -> Path:
    """Where rendered cells are kept: WBC_CACHE, else the user's cache folder."""
    base = os.environ.get("WBC_CACHE") or os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "wbc-fl" / "cells"


def _cache_key(clinic: PhantomClinic, study: StudyConfig, seed: int) -> str:
    mixes = {case: dict(case_mix(case)) for case in clinic.case_mix}
    parts = [
        clinic.model_dump(mode="json", exclude={"role"}),
        load_domain(clinic.domain).model_dump(mode="json"),
        mixes,
        study.classes.digest,
        study.images.source_px,
        seed,
        _RENDERER,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]
