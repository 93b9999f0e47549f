"""What the commands of `wbc-simulate` share: options that mean the same everywhere, `--set`, and the plan they make."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wbc_common.errors import SettingError

if TYPE_CHECKING:
    from wbc_common.study import StudyConfig
    from wbc_simulations.experiment import Experiment

Study = Annotated[Path | None, typer.Option("--study", help="experiment file; default: the in-silico study")]
Data = Annotated[Path | None, typer.Option(help="folder with a manifest.csv of real cells")]
HeldOut = Annotated[
    list[str] | None,
    typer.Option(
        help="clinic to hold out in place of those the file holds out, which then train unless named here too; "
        "may be given several times"
    ),
]
Fold = Annotated[
    list[str] | None,
    typer.Option("--fold", help="only runs that hold out this clinic; not one of several of hold_out = 'stated'"),
]
Changes = Annotated[
    list[str] | None, typer.Option("--set", help="a setting, e.g. --set loss.tau=0.5, --set data.skew.label_alpha=0.1")
]
Json = Annotated[bool, typer.Option("--json", help="print the figures as JSON")]


def parse_changes(changes: list[str] | None) -> dict[str, Any]:
    """ "loss.tau=0.5" → {"loss.tau": 0.5}; a value that is no TOML is taken as text."""
    parsed: dict[str, Any] = {}
    for change in changes or []:
        key, equals, text = change.partition("=")
        if not equals or not key:
            raise SettingError(f"--set {change} is no setting", remedy="write --set loss.tau=0.5")
        try:
            parsed[key] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            parsed[key] = text
    return parsed


def plan_run(
    study: Path | None, data: Path | None, held_out: list[str] | None, changes: list[str] | None
) -> "tuple[Experiment, StudyConfig]":
    """The experiment and the plan of one run, with a weights file that lies beside the experiment's."""
    from wbc_common.weights_file import find_weights
    from wbc_simulations.experiment import DEFAULT_EXPERIMENT, plan_study, read_experiment, with_changes

    experiment, settings = with_changes(read_experiment(study or DEFAULT_EXPERIMENT, data), parse_changes(changes))
    plan = plan_study(experiment, held_out=held_out or (), changes=settings)
    return experiment, plan.model_copy(update={"model": find_weights(plan.model, folder_of(study))})


def folder_of(study: Path | None) -> Path:
    """The folder of the experiment's file."""
    from wbc_simulations.experiment import DEFAULT_EXPERIMENT

    return (study or DEFAULT_EXPERIMENT).resolve().parent


def refuse_with_resume(given: Mapping[str, object]) -> None:
    """Check that nothing of a plan is given beside --resume, by option.

    Raises:
        SettingError: naming the options that are.
    """
    options = [option for option, value in given.items() if value]
    if options:
        raise SettingError(
            f"--resume goes on with the plan of the run and takes no other: {', '.join(options)}",
            remedy="leave these out, or start a new run without --resume",
        )
