"""`[data]` of an experiment: where the cells come from, and which clinics they make.

The clinics of a study are the sources (in-silico clinics, or those of a manifest) unless `[data.skew]` deals a pool of
them among virtual clinics; then they are the virtual clinics and the sources that are not pooled.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field

from wbc_client.dataset.manifest import FILE_NAME as MANIFEST
from wbc_client.dataset.manifest import manifest_clinics
from wbc_common.errors import SettingError
from wbc_common.study import ClinicId, Role, Settings
from wbc_simulations.skew.settings import Skew

StatedClinics = Mapping[str, Sequence[str]]


class PhantomClinic(Settings):
    """One in-silico clinic.

    Attributes:
        clinic: its name.
        role: training or held out.
        domain: stain, optics, camera and framing, see `phantom.domain_names`.
        case_mix: case → share of the patients, see `phantom.case_mix_names`.
        cells, patients: how many; cells fall on patients evenly.
        missing: classes that this clinic never has.
    """

    clinic: ClinicId
    role: Role = "train"
    domain: str
    case_mix: dict[str, float] = Field(default={"normal": 1.0}, min_length=1)
    cells: int = Field(300, ge=1, le=1_000_000)
    patients: int = Field(12, ge=1, le=100_000)
    missing: tuple[str, ...] = ()


class DataSource(Settings):
    """Where cells come from.

    Attributes:
        path: the manifest's folder.
        splits: `assigned` makes train, val and test by patient and near-duplicate; `given` takes the manifest's own.
        labels: of real cells, a word of theirs → the known label it stands for.
        max_unreadable_fraction: of real cells, more unreadable images than this stop the run.
        seed: draws in-silico cells; it does not change with the study's seed.
        clinics: the in-silico clinics.
        skew: how the study's clinics are made of these; by default they are the clinics.
    """

    kind: Literal["phantom", "manifest"]
    path: Path | None = None
    splits: Literal["assigned", "given"] = "assigned"
    labels: dict[str, str] = Field(default={})
    max_unreadable_fraction: float = Field(0.05, ge=0, lt=1)
    seed: int = Field(0, ge=0, lt=2**31)
    clinics: tuple[PhantomClinic, ...] = ()
    skew: Skew = Skew()


def source_clinics(data: DataSource) -> tuple[str, ...]:
    """The clinics that the cells come from, in name order."""
    if data.kind == "phantom":
        return tuple(sorted({clinic.clinic for clinic in data.clinics}))
    assert data.path is not None, "read_experiment checked it"
    file = data.path / MANIFEST if data.path.is_dir() else data.path
    return _clinics_of_manifest(data.path, file.stat().st_mtime_ns if file.exists() else 0)


@lru_cache(maxsize=8)
def _clinics_of_manifest(path: Path, last_change: int) -> tuple[str, ...]:
    """Kept, because the plan of every run of a sweep asks for it."""
    return manifest_clinics(path)


def deals(data: DataSource) -> bool:
    """Whether the study's clinics are virtual ones."""
    return data.skew.deal != "source"


def pooled_clinics(data: DataSource, stated: StatedClinics, held_out: Sequence[str]) -> tuple[str, ...]:
    """The sources that a skew pools, in name order: those it names, by default those that train.

    Args:
        data: the data.
        stated: train and held_out as the experiment's study names them; may be empty.
        held_out: clinics held out in this run.
    """
    everyone = source_clinics(data)
    if data.skew.pool:
        chosen: Sequence[str] = data.skew.pool
    elif set(stated.get("train", ())) & set(everyone):
        chosen = stated["train"]
    else:
        kept = {clinic.clinic for clinic in data.clinics if clinic.role == "held-out"}
        chosen = [name for name in everyone if name not in kept]
    aside = {*held_out, *stated.get("held_out", ())}
    return tuple(sorted(set(chosen) & set(everyone) - aside))


def present_clinics(data: DataSource, stated: StatedClinics, held_out: Sequence[str]) -> tuple[str, ...]:
    """The clinics that a study on these data can name, in name order."""
    if not deals(data):
        return source_clinics(data)
    apart = set(source_clinics(data)) - set(pooled_clinics(data, stated, held_out))
    return tuple(sorted({*data.skew.virtual_clinics, *apart}))


def check_pool(data: DataSource, stated: StatedClinics, held_out: Sequence[str]) -> None:
    """Check that a skew pools clinics that exist, and some, under names of their own.

    Raises:
        SettingError: naming what does not fit.
    """
    everyone = source_clinics(data)
    strangers = sorted(set(data.skew.pool) - set(everyone))
    if strangers:
        raise SettingError(
            f"data.skew.pool names clinics that do not exist: {', '.join(strangers)}",
            remedy=f"choose among {', '.join(everyone)}",
        )
    twice = sorted(set(data.skew.virtual_clinics) & set(everyone))
    if twice:
        raise SettingError(f"virtual clinics are called as sources: {', '.join(twice)}", remedy="set data.skew.name")
    if deals(data) and not pooled_clinics(data, stated, held_out):
        raise SettingError("data.skew deals a pool of no clinic", remedy="name some in data.skew.pool")
