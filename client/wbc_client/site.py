"""The clinic's own file, `clinic.toml`: who we are, which plan we approved, where our cells lie.

It stays on site and nothing of it travels. Light on purpose (no torch), so that a command can check it at once. One
`DataSettings` serves the three kinds of data; a setting that a kind does not use is refused, so that none is silently
without effect.
"""

import re
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from wbc_common.errors import SettingError
from wbc_common.study import ClinicId, Settings, StudyConfig, read_study, read_toml, validated

_ONLY_FOR = {
    "clinic": ("manifest",),
    "splits": ("manifest", "folders"),
    "group_pattern": ("folders",),
    "um_per_px": ("manifest", "folders"),
    "labels": ("manifest", "folders"),
}


class DataSettings(Settings):
    """Where the cells are and how they are named.

    Attributes:
        kind: a CSV `manifest`, `folders` named after classes, or one `packed` .safetensors file.
        path: the manifest or a folder holding manifest.csv; the folder of class folders; the packed file.
        clinic: of a manifest that lists several clinics, the one whose rows are ours.
        splits: `given` uses the train/val/test that the manifest or folders state; `assigned` ignores them.
        max_unreadable_fraction: more unreadable images than this stop the clinic.
        group_pattern: regular expression whose first group, found in a file's name, is the patient or slide.
        um_per_px: micrometres per pixel of all images; a manifest's own column goes first.
        labels: a word of ours → the known label it stands for.
    """

    kind: Literal["manifest", "folders", "packed"]
    path: Path
    clinic: ClinicId | None = None
    splits: Literal["given", "assigned"] = "given"
    max_unreadable_fraction: float = Field(0.05, ge=0, lt=1)
    group_pattern: str | None = None
    um_per_px: float | None = Field(None, gt=0, le=10)
    labels: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _setting_fits_kind(self) -> Self:
        for name, kinds in _ONLY_FOR.items():
            if name in self.model_fields_set and self.kind not in kinds:
                raise ValueError(f"'{name}' is for data of kind {' or '.join(kinds)}, not {self.kind}")
        return self

    @model_validator(mode="after")
    def _pattern_has_a_group(self) -> Self:
        if self.group_pattern is None:
            return self
        try:
            groups = re.compile(self.group_pattern).groups
        except re.error as error:
            raise ValueError(f"group_pattern is no regular expression: {error}") from error
        if groups < 1:
            raise ValueError("group_pattern needs a bracketed part that is the patient or slide, e.g. '^(P\\d+)_'")
        return self


class CoordinatorSettings(Settings):
    """How this clinic reaches a study's coordinator, as the coordinator wrote it.

    Attributes:
        address: host name and port of the gateway; the one place this clinic connects to.
        ca: certificate of the study's authority; no other one is trusted.
        key: this clinic's private key, made by `wbc-client init`.
    """

    address: str = Field(pattern=r"^[A-Za-z0-9.-]+:[0-9]{1,5}$")
    ca: Path = Path("ca.pem")
    key: Path = Path("keys/clinic.key")

    @property
    def host(self) -> str:
        """The gateway's host name."""
        return self.address.rpartition(":")[0]

    @property
    def port(self) -> int:
        """The gateway's port."""
        return int(self.address.rpartition(":")[2])


class Site(Settings):
    """A clinic's own settings; paths are absolute once read.

    Attributes:
        clinic: our name in the study.
        study: the plan that this clinic approved.
        device: where to compute; `auto` takes a GPU where there is one.
        gpu_share: of the GPU's memory, at most so much for this clinic: below 1 where it shares one.
        state_dir: the egress ledger and whatever must outlive a process.
        data: our cells.
        coordinator: where the study's gateway is; only for a federation over a network.
    """

    clinic: ClinicId
    study: Path
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    gpu_share: float = Field(1.0, gt=0, le=1)
    state_dir: Path = Path("state")
    data: DataSettings
    coordinator: CoordinatorSettings | None = None

    def node(self) -> CoordinatorSettings:
        """How to reach the coordinator.

        Raises:
            SettingError: the clinic file does not say.
        """
        if self.coordinator is None:
            raise SettingError(
                f"the file of clinic {self.clinic} names no coordinator",
                remedy="add [coordinator] with address, ca and key; wbc-client init writes an example",
            )
        return self.coordinator

    def read_study(self) -> StudyConfig:
        """The approved plan.

        Raises:
            SettingError: it is missing or not valid.
        """
        return read_study(self.study)


def read_site(path: Path) -> Site:
    """The clinic file, with each relative path taken from the file's own folder.

    Raises:
        SettingError: naming what is missing or wrong.
    """
    site = validated(Site, read_toml(path), path.name)
    folder = path.resolve().parent
    data = site.data.model_copy(update={"path": _absolute(site.data.path, folder)})
    places: dict[str, object] = {
        "study": _absolute(site.study, folder),
        "state_dir": _absolute(site.state_dir, folder),
    }
    if site.coordinator is not None:
        keys = {"ca": _absolute(site.coordinator.ca, folder), "key": _absolute(site.coordinator.key, folder)}
        places["coordinator"] = site.coordinator.model_copy(update=keys)
    return site.model_copy(update={**places, "data": data})


def _absolute(path: Path, folder: Path) -> Path:
    return (folder / path.expanduser()).resolve()
