"""Real cells of a manifest as a simulation uses them: read by the clinics' own reader, packed once where skewed."""

from pathlib import Path

from wbc_client.dataset.manifest import read_manifest
from wbc_client.dataset.opening import read_cells
from wbc_client.dataset.packed import packed_metadata, write_packed
from wbc_client.site import DataSettings, Site
from wbc_common.study import StudyConfig
from wbc_simulations.cell_cache import cell_file, write_once
from wbc_simulations.data_source import DataSource

_OF_REAL_CELLS = {"path", "splits", "labels", "max_unreadable_fraction"}


def real_source(name: str, data: DataSource) -> dict[str, object]:
    """What the clinic file of one of a manifest's clinics says under [data]."""
    settings = data.model_dump(mode="json", include=_OF_REAL_CELLS)
    return {"kind": "manifest", "clinic": name, **settings}


def real_site(name: str, data: DataSource) -> Site:
    """One of a manifest's clinics, for the clinics' own reader."""
    settings = DataSettings.model_validate(real_source(name, data))
    return Site(clinic=name, study=Path("study.toml"), data=settings)


def real_cells(name: str, data: DataSource, study: StudyConfig) -> Path:
    """The packed cells of one of a manifest's clinics, decoded if the cache lacks them.

    Raises:
        DataError: as the clinic itself would say.
    """
    assert data.path is not None, "read_experiment checked it"
    listing = read_manifest(data.path, study.classes, own_words=data.labels, own_id=name, clinic=name)
    files = [[str(file), *_last_change(file.path)] for file in listing.files]
    settings = real_source(name, data)
    path = cell_file(name, settings, files, study.classes.digest, study.images.source_px, study.images.field_um)
    if not path.exists():
        cells = read_cells(real_site(name, data), study).cells
        metadata = packed_metadata(study.classes, study.images)
        write_once(path, lambda own: write_packed(cells, own, metadata))
    return path


def _last_change(path: Path) -> tuple[int, int]:
    """Size and time of a file; zeros where there is none, which is one unreadable image."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns
