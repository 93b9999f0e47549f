"""`wbc-server`: the coordinator's commands."""

import json
import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from wbc_common.terminal import run_command

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def _about() -> None:
    """Coordinate federated white-blood-cell studies. Research software; no clinical use."""


@app.command()
def plan(
    study: Annotated[Path, typer.Argument(help="study.toml")],
    as_json: Annotated[bool, typer.Option("--json", help="print the plan as JSON")] = False,
) -> None:
    """Check a study plan and print its hash, which every clinic must show too."""
    from wbc_common.study import read_study
    from wbc_server.cautions import cautions

    config = read_study(study)
    if as_json:
        typer.echo(
            json.dumps({"hash": config.hash, "plan": config.model_dump(mode="json"), "cautions": cautions(config)})
        )
        return
    typer.echo(f"study {config.name}: {config.rounds} rounds, {config.registry}, {config.aggregation.rule}")
    typer.echo(f"training clinics: {', '.join(config.clinics.train)}")
    typer.echo(f"held-out clinics: {', '.join(config.clinics.held_out) or 'none'}")
    for caution in cautions(config):
        typer.echo(f"caution: {caution}")
    typer.echo(f"plan hash: {config.hash}")


@app.command()
def report(run: Annotated[Path, typer.Argument(help="folder of a finished run")]) -> None:
    """Write a run's report again from its figures."""
    from wbc_server.report import write_report

    typer.echo(write_report(run))


def main() -> None:
    """Entry point."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    run_command(app)
