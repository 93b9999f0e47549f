"""Whether a run that lies in a folder is the one that a sweep plans there: of the same plan, on the same cells.

The plan and `[data]` say where cells come from, not what they are: a label of the manifest may have been corrected
since, an image replaced, the rule of the splits changed. So a record keeps a digest of what decides its run's cells,
cheap enough to be made for each run of a sweep: no image is decoded, none rendered.
"""

import hashlib
import json
from functools import lru_cache
from pathlib import Path

from wbc_client.dataset.manifest import FILE_NAME, read_manifest
from wbc_common.cells import registry
from wbc_common.study import StudyConfig
from wbc_simulations.cell_cache import cell_file
from wbc_simulations.clinics import unrendered_clinic
from wbc_simulations.data_source import DataSource, PhantomClinic
from wbc_simulations.experiment import Experiment
from wbc_simulations.phantom import load_domain
from wbc_simulations.skewed import sources_of


def cells_digest(experiment: Experiment, study: StudyConfig) -> str:
    """A digest of the cells that a study's clinics are made of: their labels, patients, splits and images."""
    sources = [_source_digest(name, experiment.data, study) for name in sources_of(experiment, study)]
    return cell_file("cells", sources).stem  # a name of the cache also tells who makes cells


def _source_digest(name: str, data: DataSource, study: StudyConfig) -> str:
    if data.kind == "phantom":
        clinic = next(clinic for clinic in data.clinics if clinic.clinic == name)
        return _digest_of_phantoms(clinic.model_dump_json(exclude={"role"}), study.registry, data.seed)
    assert data.path is not None, "read_experiment checked it"
    file = data.path / FILE_NAME if data.path.is_dir() else data.path
    last_change = file.stat().st_mtime_ns if file.exists() else 0
    return _digest_of_files(name, data.path, json.dumps(data.labels), study.registry, last_change)


@lru_cache(maxsize=1024)
def _digest_of_phantoms(clinic_json: str, registry_name: str, seed: int) -> str:
    """In-silico cells: the domain that they are rendered in, then labels, patients and splits themselves."""
    clinic = PhantomClinic.model_validate_json(clinic_json)
    cells = unrendered_clinic(clinic, registry(registry_name), seed=seed)
    digest = hashlib.sha256(load_domain(clinic.domain).model_dump_json().encode())
    for values in (cells.allowed, cells.groups, cells.split):
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()


@lru_cache(maxsize=1024)
def _digest_of_files(clinic: str, path: Path, labels_json: str, registry_name: str, last_change: int) -> str:
    """Real cells: what the manifest says of each, and how large its image is; kept while the manifest stays."""
    words = json.loads(labels_json)
    listing = read_manifest(path, registry(registry_name), own_words=words, own_id=clinic, clinic=clinic)
    told = [
        [file.name, file.group, file.near_duplicate, file.split, allowed, _size(file.path)]
        for file, allowed in zip(listing.files, listing.allowed, strict=True)
    ]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def same_plan(one: StudyConfig, other: StudyConfig) -> bool:
    """Whether two plans are the same, wherever a weights file of one name lies ("w.safetensors", "/at/w.safetensors").

    An earlier version wrote the name as the study says it, whatever folder it was found in.
    """
    mine, theirs = Path(one.model.weights), Path(other.model.weights)
    shorter, longer = sorted((mine.parts, theirs.parts), key=len)
    if longer[len(longer) - len(shorter) :] != shorter:
        return False
    model = other.model.model_copy(update={"weights": one.model.weights})
    return one.hash == other.model_copy(update={"model": model}).hash
