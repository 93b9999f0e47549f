"""`wbc-client`: a hospital's commands."""

import json
import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from wbc_common.terminal import run_command

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

Json = Annotated[bool, typer.Option("--json", help="print JSON")]


@app.callback()
def _about() -> None:
    """Take part in federated white-blood-cell studies. Research software; no clinical use."""


@app.command()
def check(
    clinic: Annotated[Path, typer.Argument(help="clinic.toml")],
    as_json: Json = False,
) -> None:
    """Open this clinic's cells as a study would, and say what is there and what is wrong."""
    from wbc_client.dataset.cell_set import SPLITS
    from wbc_client.dataset.opening import open_cells
    from wbc_client.device import choose_device
    from wbc_client.site import read_site

    site = read_site(clinic)
    study = site.read_study()
    device = str(choose_device(site.device))
    opened = open_cells(site, study)
    counts = {split: opened.cells.part(split).class_counts().tolist() for split in SPLITS}
    if as_json:
        found = {"clinic": site.clinic, "role": study.role(site.clinic), "plan": study.hash, "device": device}
        typer.echo(json.dumps({**found, "class_counts": counts, "notes": opened.notes, "left_out": opened.left_out}))
        return
    typer.echo(f"clinic {site.clinic}, {study.role(site.clinic)}, plan {study.hash[:12]}, device {device}")
    for row, name in enumerate(study.classes.classes):
        typer.echo(f"  {name:22s}" + "".join(f"{counts[split][row]:8.0f} {split}" for split in SPLITS))
    for note in opened.notes:
        typer.echo(note)


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="model.safetensors of a run")],
    images: Annotated[list[Path], typer.Argument(help="images of single cells, or folders of them")],
    head: Annotated[Path | None, typer.Option(help="personal-head.safetensors that this clinic kept")] = None,
    as_json: Json = False,
) -> None:
    """Classify single-cell images on this machine. Probabilities are not calibrated; no clinical use."""
    from wbc_client.predict import classify, image_files, load_model

    network, study = load_model(model)
    if head is not None:
        from wbc_client.personal import put_head

        put_head(network, head, study)
    for found in classify(network, study, image_files(images)):
        if as_json:
            typer.echo(json.dumps({"path": str(found.path), "class": found.cell_class, **found.probabilities}))
        else:
            typer.echo(f"{found.path}\t{found.cell_class}\t{found.probability:.3f}")


@app.command()
def ledger(clinic: Annotated[Path, typer.Argument(help="clinic.toml")], as_json: Json = False) -> None:
    """What left this clinic: records and bytes by kind of task, from the egress ledger."""
    from wbc_client.ledger import read_departures
    from wbc_client.site import read_site

    departures = read_departures(read_site(clinic).state_dir)
    if as_json:
        typer.echo(json.dumps([departure.records | {"task": departure.task} for departure in departures]))
        return
    for task in sorted({departure.task for departure in departures}):
        sizes = [departure.num_bytes for departure in departures if departure.task == task]
        typer.echo(f"{task:12s} {len(sizes):6d} replies {sum(sizes):12d} bytes")
    typer.echo("no image left; updates and counts can still reveal something about training cells")


def main() -> None:
    """Entry point."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    run_command(app)
