"""An experiment file: the study, where its clinics' cells come from, and what to compare.

[study]              the plan, as wbc_common.study.StudyConfig (clinics may be left to the data)
[data]               kind = "phantom": in-silico clinics, listed; kind = "manifest": real cells, path by --data
[data.skew]          how the clinics are made of these cells, see `wbc_simulations.skew`
[compare]            methods and seeds of `wbc-simulate compare` and `sweep`
[sweep.grid]         settings by dotted key, each with the values that a sweep tries
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from wbc_common.errors import SettingError
from wbc_common.study import Settings, StudyConfig, parse_study, read_toml, validated
from wbc_simulations.data_source import DataSource, PhantomClinic, check_pool, deals, present_clinics
from wbc_simulations.methods import Comparison, Method, MethodKind, Sweep
from wbc_simulations.skew.settings import check_skew

__all__ = [
    "DEFAULT_EXPERIMENT",
    "Comparison",
    "DataSource",
    "Experiment",
    "Method",
    "MethodKind",
    "PhantomClinic",
    "Sweep",
    "all_clinics",
    "knowing_no_phantoms",
    "plan_study",
    "read_experiment",
    "stated_held_out",
    "with_changes",
    "with_method",
    "write_experiment",
]

DEFAULT_EXPERIMENT = Path(__file__).with_name("default_study.toml")
_DATA = "data."


class Experiment(Settings):
    """A whole experiment file. `study` stays plain values until clinics, seed and method are known.

    `kind` other than `federated` makes each of its runs a bound (`wbc_simulations.bounds`).
    """

    study: dict[str, Any]
    data: DataSource
    compare: Comparison = Comparison()
    sweep: Sweep = Sweep()
    kind: MethodKind = "federated"


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
    experiment: Experiment,
    *,
    held_out: Sequence[str] = (),
    without: str = "",
    changes: Mapping[str, Any] | None = None,
) -> StudyConfig:
    """The plan of one run.

    Args:
        experiment: the file.
        held_out: clinics to hold out instead of those the file names.
        without: a clinic that would train and has no part; empty for none.
        changes: settings by dotted key, e.g. {"loss.tau": 0.5}.
    """
    values = _merged(experiment.study, {})
    if experiment.data.kind == "phantom":
        values = knowing_no_phantoms(values)
    clinics = _clinics(experiment, held_out)
    values["clinics"] = {**clinics, "train": [name for name in clinics["train"] if name != without]}
    for key, value in (changes or {}).items():
        _set(values, key, value)
    study = parse_study(values, "study")
    _check_clinics(experiment, study)
    return study


def knowing_no_phantoms(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of an in-silico study: random initial weights and no rehearsal, unless they name others.

    What is shipped knows every shipped domain: starting from it, or rehearsing it, no in-silico clinic is held out.
    """
    defaults: dict[str, dict[str, Any]] = {"model": {"weights": "none"}, "training": {"rehearsal": 0.0}}
    given = {name: settings.get(name, {}) for name in defaults}
    filled = {name: {**defaults[name], **table} if isinstance(table, dict) else table for name, table in given.items()}
    return {**settings, **filled}


def with_method(experiment: Experiment, method: Method) -> Experiment:
    """The experiment under a method of its comparison."""
    return experiment.model_copy(update={"study": _merged(experiment.study, method.settings), "kind": method.kind})


def with_changes(experiment: Experiment, changes: Mapping[str, Any]) -> tuple[Experiment, dict[str, Any]]:
    """The experiment with the changes to its data made ("data.skew.seed"), and the changes left, which are the study's.

    Raises:
        SettingError: a setting of the data does not exist or has a wrong value.
    """
    left = {key: value for key, value in changes.items() if not key.startswith(_DATA)}
    if len(left) == len(changes):
        return experiment, left
    values = experiment.data.model_dump(mode="json", exclude_unset=True)
    for key in changes.keys() - left.keys():
        _set(values, key.removeprefix(_DATA), changes[key])
    return experiment.model_copy(update={"data": validated(DataSource, values, "data")}), left


def all_clinics(experiment: Experiment, held_out: Sequence[str] = ()) -> tuple[str, ...]:
    """Every clinic of the experiment, in name order.

    Those that the study names, where the data have them all; otherwise (another folder, a clinic to hold out that the
    study does not name, virtual clinics) all that the data have.
    """
    stated = _stated(experiment)
    named = {*stated.get("train", ()), *stated.get("held_out", ())}
    present = present_clinics(experiment.data, stated, held_out)
    names_all = stated.get("train") and {*named, *held_out} <= named & set(present)
    return tuple(sorted(named)) if names_all else present


def stated_held_out(experiment: Experiment) -> tuple[str, ...]:
    """The clinics that the experiment itself holds out."""
    return tuple(_clinics(experiment, ()).get("held_out", ()))


def _stated(experiment: Experiment) -> dict[str, list[str]]:
    stated: dict[str, list[str]] = experiment.study.get("clinics", {})
    return stated


def _clinics(experiment: Experiment, held_out: Sequence[str]) -> dict[str, list[str]]:
    everyone = all_clinics(experiment, held_out)
    if held_out:
        strangers = sorted(set(held_out) - set(everyone))
        if strangers:
            raise SettingError(
                f"no clinic is called {', '.join(strangers)}", remedy=f"hold out one of {', '.join(everyone)}"
            )
        return {"train": [name for name in everyone if name not in held_out], "held_out": list(held_out)}
    stated = _stated(experiment)
    present = present_clinics(experiment.data, stated, ())
    if stated and {*stated.get("train", ()), *stated.get("held_out", ())} <= set(present):
        return stated if stated.get("train") else _all_but(stated.get("held_out", []), everyone)
    if experiment.data.kind == "phantom":
        return _clinics_by_role(experiment.data.clinics, present)
    if deals(experiment.data) and stated.get("held_out"):
        return _all_but(stated["held_out"], present)
    raise SettingError(
        f"the cells come from {', '.join(everyone)}, and the study does not say which of them is held out",
        remedy=f"add --held-out CLINIC, e.g. --held-out {everyone[-1]}",
    )


def _all_but(held_out: Sequence[str], everyone: Sequence[str]) -> dict[str, list[str]]:
    return {"train": [name for name in everyone if name not in held_out], "held_out": list(dict.fromkeys(held_out))}


def _clinics_by_role(clinics: Sequence[PhantomClinic], present: Sequence[str]) -> dict[str, list[str]]:
    """Roles as the file gives them, in the file's order; virtual clinics train."""
    sources = [clinic.clinic for clinic in clinics]
    held_out = [clinic.clinic for clinic in clinics if clinic.role == "held-out"]
    ordered = [*(name for name in sources if name in present), *(name for name in present if name not in sources)]
    return _all_but(held_out, ordered)


def _check_clinics(experiment: Experiment, study: StudyConfig) -> None:
    data, stated = experiment.data, _stated(experiment)
    present = present_clinics(data, stated, study.clinics.held_out)
    strangers = sorted({*study.clinics.train, *study.clinics.held_out} - set(present))
    if strangers:
        raise SettingError(
            f"the study names clinics that the data have not: {', '.join(strangers)}",
            remedy=f"choose among {', '.join(present)}",
        )
    if data.kind == "phantom" and study.images.field_um is not None:
        raise SettingError(
            "images.field_um is for image files of known µm per pixel; in-silico cells are framed by their domain",
            remedy="leave images.field_um out, or give real cells with --data",
        )
    check_skew(data.skew, study.classes, present)
    check_pool(data, stated, study.clinics.held_out)


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
