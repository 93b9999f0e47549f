"""`wbc-simulate`: federated studies at a researcher's desk."""

import json
import logging
import sys
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from wbc_common.terminal import run_command
from wbc_simulations.options import (
    Changes,
    Data,
    Fold,
    HeldOut,
    Json,
    Study,
    folder_of,
    parse_changes,
    plan_run,
    refuse_with_resume,
)
from wbc_simulations.phantom_commands import pretrain, realism, rehearsal_cells, render

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def _about() -> None:
    """Federated white-blood-cell studies in silico. Research software; no clinical use."""


@app.command()
def run(
    study: Study = None,
    data: Data = None,
    held_out: HeldOut = None,
    changes: Changes = None,
    output: Annotated[Path | None, typer.Option(help="run folder; default: a dated one under runs/")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with --output, or the newest unfinished run")] = False,
    engine: Annotated[Literal["in-process", "ray"], typer.Option(help="how clinics are run")] = "in-process",
    ray_address: Annotated[
        str | None, typer.Option(help="head of a Ray cluster for --engine ray, e.g. 10.0.0.1:6379")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print metrics.json instead of a table")] = False,
) -> None:
    """Run one federated study and write its run folder: metrics, model, report."""
    from rich.console import Console

    from wbc_common.weights_file import check_weights
    from wbc_server.run_folder import RunFolder
    from wbc_simulations.display import StudyDisplay
    from wbc_simulations.engine.engines import check_engine
    from wbc_simulations.results import results_table
    from wbc_simulations.running import continue_run, dated_folder, finish_run, new_run, unfinished_run

    console = Console(stderr=as_json)
    check_engine(engine, ray_address)
    laid_out: AbstractContextManager[None] = nullcontext()
    if resume:
        refuse_with_resume({"--study": study, "--data": data, "--held-out": held_out, "--set": changes})
        folder = RunFolder(output or unfinished_run())
        experiment, plan = continue_run(folder)
    else:
        folder = RunFolder(output or dated_folder())
        experiment, plan = plan_run(study, data, held_out, changes)
        check_weights(plan.model, beside=folder_of(study))
        laid_out = new_run(experiment, plan, folder)
    try:
        with laid_out, StudyDisplay(console):
            console.print(
                f"study {plan.name}, plan {plan.hash[:12]}, folder {folder.path}", highlight=False, soft_wrap=True
            )
            finish_run(experiment, plan, folder, engine, ray_address=ray_address, on_wait=partial(typer.echo, err=True))
    except KeyboardInterrupt:
        console.print(
            f"stopped; go on with: wbc-simulate run --output {folder.path} --resume", highlight=False, soft_wrap=True
        )
        raise
    metrics = folder.read_metrics()
    if as_json:
        typer.echo(json.dumps(metrics))
        return
    console.print(results_table(metrics))
    console.print(f"report: {folder.report}", highlight=False, soft_wrap=True)


@app.command()
def splits(
    study: Study = None,
    data: Data = None,
    held_out: HeldOut = None,
    changes: Changes = None,
    output: Annotated[Path, typer.Option(help="picture to write: .png, .svg or .pdf")] = Path("splits.png"),
    as_json: Json = False,
) -> None:
    """Show who has how many cells of which class before anything is trained: a table, and a picture."""
    from wbc_simulations.splits.counts import count_splits, splits_as_json
    from wbc_simulations.splits.picture import check_format, draw_splits
    from wbc_simulations.splits.text import splits_text

    check_format(output)
    experiment, plan = plan_run(study, data, held_out, changes)
    counted = count_splits(experiment, plan)
    draw_splits(counted, plan, output)
    typer.echo(json.dumps(splits_as_json(counted, plan)) if as_json else splits_text(counted, plan), nl=as_json)
    typer.echo(f"picture: {output}", err=as_json)


@app.command()
def compare(
    study: Study = None,
    data: Data = None,
    changes: Changes = None,
    output: Annotated[
        Path, typer.Option(help="folder of all cells of the comparison; goes on where it stopped")
    ] = Path("runs/compare"),
    seeds: Annotated[int | None, typer.Option(min=1, help="how many of the file's seeds")] = None,
    folds: Fold = None,
    methods: Annotated[list[str] | None, typer.Option("--method", help="only this method, and its baseline")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="runs at a time")] = 2,
    page: Annotated[
        Path | None, typer.Option("--write", help="a page of results (.md) to put the tables and a picture into")
    ] = None,
    as_json: Json = False,
) -> None:
    """Leave one clinic out, for every method and seed, and print the table with paired differences."""
    from rich.console import Console

    from wbc_simulations.comparison.compare import comparison_tables, plan_comparison, write_comparison
    from wbc_simulations.comparison.page import write_into_page
    from wbc_simulations.experiment import DEFAULT_EXPERIMENT, read_experiment
    from wbc_simulations.sweep.cells import refuse_failures
    from wbc_simulations.sweep.display import run_sweep
    from wbc_simulations.sweep.start_weights import check_start_weights, with_found_weights

    experiment = read_experiment(study or DEFAULT_EXPERIMENT, data)
    cells = plan_comparison(
        experiment, seeds=seeds, folds=folds or (), methods=methods or (), changes=parse_changes(changes)
    )
    cells = with_found_weights(cells, folder_of(study))
    check_start_weights(cells, output, folder_of(study))
    run_sweep(cells, output, jobs=jobs, console=Console(stderr=True))
    refuse_failures(cells, output)
    comparison = write_comparison(experiment, cells, output)
    if page is not None:
        picture = write_into_page(comparison, page)
        typer.echo(f"written into {page}, with {picture}", err=True)
    typer.echo(json.dumps(comparison) if as_json else comparison_tables(comparison))


@app.command()
def sweep(
    study: Study = None,
    data: Data = None,
    changes: Changes = None,
    output: Annotated[Path, typer.Option(help="folder of all runs; `compare` takes the same")] = Path("runs/compare"),
    folds: Fold = None,
    seeds: Annotated[list[int] | None, typer.Option("--seed", help="only this of the file's seeds")] = None,
    methods: Annotated[list[str] | None, typer.Option("--method", help="only this method")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="runs at a time")] = 2,
    only_status: Annotated[bool, typer.Option("--status", help="run nothing; list what is finished and left")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print where each run stands as JSON")] = False,
) -> None:
    """Run folds × seeds × methods (and a grid of settings), going on where an earlier sweep stopped."""
    from rich.console import Console

    from wbc_simulations.experiment import DEFAULT_EXPERIMENT, read_experiment
    from wbc_simulations.sweep.cells import Filters, plan_cells, refuse_failures
    from wbc_simulations.sweep.display import run_sweep, status, status_text
    from wbc_simulations.sweep.start_weights import check_start_weights, with_found_weights

    experiment = read_experiment(study or DEFAULT_EXPERIMENT, data)
    filters = Filters(folds=folds or (), seeds=seeds or (), methods=methods or ())
    cells = with_found_weights(plan_cells(experiment, filters, parse_changes(changes)), folder_of(study))
    if not only_status:
        check_start_weights(cells, output, folder_of(study))
        run_sweep(cells, output, jobs=jobs, console=Console(stderr=True))
    listed = status(cells, output)
    typer.echo(json.dumps(listed) if as_json else status_text(listed))
    if not only_status:
        refuse_failures(cells, output)


for _command in (render, pretrain, rehearsal_cells, realism):
    app.command()(_command)


def main() -> None:
    """Entry point."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    run_command(app)
