"""The cells of clinics that a skew makes: tables derived, images gathered, packed files in the cache.

The clinics read them as they read any packed file, so the ClientApp's path is the same with and without a skew.
"""

from collections.abc import Callable
from pathlib import Path

from wbc_client.dataset.cell_set import CellSet
from wbc_client.dataset.packed import packed_metadata, read_packed, write_packed
from wbc_common.study import StudyConfig
from wbc_simulations.cell_cache import cell_file, write_once
from wbc_simulations.data_source import deals, pooled_clinics, source_clinics
from wbc_simulations.experiment import Experiment
from wbc_simulations.skew.deriving import derive_clinics
from wbc_simulations.skew.table import CellTable, table_of, with_images


def skewed_cells(experiment: Experiment, study: StudyConfig, source: Callable[[str], Path]) -> dict[str, Path]:
    """The packed cells of every clinic of a study whose data are skewed, made if the cache lacks them.

    Args:
        source: the packed cells of a source, see `clinics.source_cells`.
    """
    packed = {name: source(name) for name in sources_of(experiment, study)}
    told = [[path.name for path in packed.values()], experiment.data.skew.model_dump(mode="json")]
    told += [list(packed), list(_pool(experiment, study)), experiment.data.splits]
    files = {
        name: cell_file(name, *told, name in study.clinics.train)
        for name in (*study.clinics.train, *study.clinics.held_out)
    }
    if not all(path.exists() for path in files.values()):
        _make(experiment, study, packed, files)
    return files


def _make(experiment: Experiment, study: StudyConfig, packed: dict[str, Path], files: dict[str, Path]) -> None:
    metadata = packed_metadata(study.classes, study.images)
    sources = {name: read_packed(path, metadata) for name, path in packed.items()}
    tables = skewed_tables(experiment, study, sources)
    by_number = dict(enumerate(sources.values()))
    for name, path in files.items():
        if not path.exists():
            cells = with_images(tables[name], by_number)
            write_once(path, lambda own, cells=cells: write_packed(cells, own, metadata))  # type: ignore[misc]


def skewed_tables(experiment: Experiment, study: StudyConfig, sources: dict[str, CellSet]) -> dict[str, CellTable]:
    """The table of every clinic of the study, from the cells of `sources_of` it."""
    return derive_clinics(
        {name: table_of(cells, number) for number, (name, cells) in enumerate(sources.items())},
        _pool(experiment, study),
        experiment.data.skew,
        study.classes,
        trains=study.clinics.train,
        splits_are_given=experiment.data.splits == "given",
    )


def sources_of(experiment: Experiment, study: StudyConfig) -> tuple[str, ...]:
    """The sources whose cells a study uses, in name order: those that are pooled, and its clinics that are sources."""
    named = {*study.clinics.train, *study.clinics.held_out}
    return tuple(name for name in source_clinics(experiment.data) if name in {*named, *_pool(experiment, study)})


def _pool(experiment: Experiment, study: StudyConfig) -> tuple[str, ...]:
    """Pooled sources in name order; where they stay clinics, those of them that train in this study."""
    skew = experiment.data.skew
    if deals(experiment.data):
        return pooled_clinics(experiment.data, experiment.study.get("clinics", {}), study.clinics.held_out)
    return tuple(sorted(set(study.clinics.train) & set(skew.pool or study.clinics.train)))
