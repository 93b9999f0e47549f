"""An experiment file: the study, where its clinics' cells come from, and what to compare.

[study]              the plan, as wbc_common.study.StudyConfig (clinics may be left to the data)
[data]               kind = "phantom": in-silico clinics, listed; kind = "manifest": real cells, path by --data
[compare]            methods, seeds and folds of `wbc-simulate compare`
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import tomli_w
from pydantic import Field, model_validator

from wbc_common.errors import SettingError
from wbc_common.study import ClinicId, Role, Settings, StudyConfig, parse_study, read_toml, validated

DEFAULT_EXPERIMENT = Path(__file__).with_name("default_study.toml")


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
    """

    kind: Literal["phantom", "manifest"]
    path: Path | None = None
    splits: Literal["assigned", "given"] = "assigned"
    labels: dict[str, str] = Field(default={})
    max_unreadable_fraction: float = Field(0.05, ge=0, lt=1)
    seed: int = Field(0, ge=0, lt=2**31)
    clinics: tuple[PhantomClinic, ...] = ()


class Method(Settings):
    """One method to compare: settings that replace the study's, table by table.

    `baseline` names the method that its paired differences are taken to; by default the first of the comparison.
    """

    name: str = Field(min_length=1, max_length=60)
    baseline: str | None = None
    settings: dict[str, dict[str, Any]] = Field(default={})


class Comparison(Settings):
    """What `compare` runs."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    methods: tuple[Method, ...] = ()

    @model_validator(mode="after")
    def _baselines_exist(self) -> Self:
        names = [method.name for method in self.methods]
        if len(set(names)) < len(names):
            raise ValueError(f"methods need different names, got {', '.join(names)}")
        strangers = [method.baseline for method in self.methods if method.baseline not in (None, *names)]
        if strangers:
            raise ValueError(f"no method is called {', '.join(map(str, strangers))}")
        return self

    def baseline_of(self, name: str) -> str:
        """The method that a method is compared with."""
        method = next(method for method in self.methods if method.name == name)
        return method.baseline or self.methods[0].name


class Experiment(Settings):
    """A whole experiment file. `study` stays plain values until clinics, seed and method are known."""

    study: dict[str, Any]
    data: DataSource
    compare: Comparison = Comparison()


def read_experiment(path: Path, data: Path | None = None) -> Experiment:
    """The experiment of a file; `data` gives or replaces the manifest's path, which is taken from the file's folder.

    Raises:
        SettingError: the file is wrong, or names cells and does not say where they are.
    """
    experiment = validated(Experiment, read_toml(path), path.name)
    if data is None and experiment.data.kind == "manifest" and experiment.data.path is not None:
        data = path.resolve().parent / experiment.data.path.expanduser()
    if data is not None:
        if experiment.data.kind != "manifest":
            experiment = experiment.model_copy(
                update={"data": DataSource(kind="manifest"), "study": _open_study(experiment)}
            )
        source = experiment.data.model_copy(update={"path": data.resolve()})
        experiment = experiment.model_copy(update={"data": source})
    if experiment.data.kind == "manifest" and experiment.data.path is None:
        raise SettingError(
            f"{path.name} works on real cells and does not say where they are",
            remedy="add --data FOLDER with a manifest.csv",
        )
    if experiment.data.kind == "phantom" and not experiment.data.clinics:
        raise SettingError(f"{path.name} lists no in-silico clinic", remedy="add [[data.clinics]]")
    return experiment


def write_experiment(experiment: Experiment, path: Path) -> None:
    """Write an experiment as TOML."""
    path.write_bytes(tomli_w.dumps(experiment.model_dump(mode="json", exclude_none=True)).encode())


def plan_study(
    experiment: Experiment, *, held_out: Sequence[str] = (), changes: Mapping[str, Any] | None = None
) -> StudyConfig:
    """The plan of one run.

    Args:
        experiment: the file.
        held_out: clinics to hold out instead of those the file names.
        changes: settings by dotted key, e.g. {"loss.tau": 0.5}.
    """
    values = _merged(experiment.study, {})
    model = values.setdefault("model", {})
    if experiment.data.kind == "phantom" and isinstance(model, dict):
        # The shipped backbone has seen every shipped domain: starting from it, no in-silico clinic is held out.
        model.setdefault("weights", "none")
    values["clinics"] = dict(_clinics(experiment, held_out))
    for key, value in (changes or {}).items():
        _set(values, key, value)
    study = parse_study(values, "study")
    _check_present(experiment, study)
    return study


def with_method(experiment: Experiment, method: Method) -> Experiment:
    """The experiment under a method of its comparison."""
    return experiment.model_copy(update={"study": _merged(experiment.study, method.settings)})


def all_clinics(experiment: Experiment, held_out: Sequence[str] = ()) -> tuple[str, ...]:
    """Every clinic of the experiment, in name order.

    Those that the study names, where the data have them all; otherwise (another folder, a clinic to hold out that the
    study does not name) all that the data have.
    """
    stated = experiment.study.get("clinics", {})
    named = {*stated.get("train", ()), *stated.get("held_out", ())}
    present = _present_clinics(experiment)
    return tuple(sorted(named if named and {*named, *held_out} <= named & present else present))


def _present_clinics(experiment: Experiment) -> set[str]:
    if experiment.data.kind == "phantom":
        return {clinic.clinic for clinic in experiment.data.clinics}
    from wbc_client.dataset.manifest import manifest_clinics

    assert experiment.data.path is not None, "read_experiment checked it"
    return set(manifest_clinics(experiment.data.path))


def _clinics(experiment: Experiment, held_out: Sequence[str]) -> dict[str, list[str]]:
    everyone = all_clinics(experiment, held_out)
    if held_out:
        strangers = sorted(set(held_out) - set(everyone))
        if strangers:
            raise SettingError(
                f"no clinic is called {', '.join(strangers)}", remedy=f"hold out one of {', '.join(everyone)}"
            )
        return {"train": [name for name in everyone if name not in held_out], "held_out": list(held_out)}
    stated: dict[str, list[str]] | None = experiment.study.get("clinics")
    if stated and {*stated.get("train", ()), *stated.get("held_out", ())} <= _present_clinics(experiment):
        return stated
    if experiment.data.kind == "phantom":
        return _clinics_by_role(experiment.data.clinics)
    raise SettingError(
        f"the cells come from {', '.join(everyone)}, and the study does not say which of them is held out",
        remedy=f"add --held-out CLINIC, e.g. --held-out {everyone[-1]}",
    )


def _check_present(experiment: Experiment, study: StudyConfig) -> None:
    present = _present_clinics(experiment)
    strangers = sorted({*study.clinics.train, *study.clinics.held_out} - present)
    if strangers:
        raise SettingError(
            f"the study names clinics that the data have not: {', '.join(strangers)}",
            remedy=f"choose among {', '.join(sorted(present))}",
        )


def _clinics_by_role(clinics: Sequence[PhantomClinic]) -> dict[str, list[str]]:
    return {
        "train": [clinic.clinic for clinic in clinics if clinic.role == "train"],
        "held_out": [clinic.clinic for clinic in clinics if clinic.role == "held-out"],
    }


def _open_study(experiment: Experiment) -> dict[str, Any]:
    """The study without the in-silico clinics it named: real cells bring their own."""
    return {key: value for key, value in experiment.study.items() if key != "clinics"}


def _merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = {key: dict(value) if isinstance(value, dict) else value for key, value in values.items()}
    for key, value in changes.items():
        merged[key] = {**merged.get(key, {}), **value}
    return merged


def _set(values: dict[str, Any], dotted: str, value: Any) -> None:
    *tables, last = dotted.split(".")
    for table in tables:
        values = values.setdefault(table, {})
        if not isinstance(values, dict):
            raise SettingError(
                f"setting '{dotted}': '{table}' is no table", remedy="name a table and a setting, e.g. loss.tau"
            )
    values[last] = value
