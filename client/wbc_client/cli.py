"""`wbc-client`: a hospital's commands."""

import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wbc_common.terminal import interrupt_on_signals, run_command

if TYPE_CHECKING:
    from wbc_client.node.checks import Finding
    from wbc_client.site import Site

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

Json = Annotated[bool, typer.Option("--json", help="print JSON")]


@app.callback()
def _about() -> None:
    """Take part in federated white-blood-cell studies. Research software; no clinical use."""


ClinicFile = Annotated[Path, typer.Argument(help="clinic.toml")]


@app.command()
def init(
    clinic: Annotated[str, typer.Option(help="this clinic's name in the plan")],
    folder: Annotated[Path, typer.Option(help="folder to make")] = Path(),
    address: Annotated[str, typer.Option(help="host:port of the coordinator's gateway")] = "fl.example.org:8443",
    as_json: Json = False,
) -> None:
    """Make this clinic's key, which never leaves, and an example clinic file; print the public key to send."""
    from wbc_client.node.setup import make_clinic

    made = make_clinic(folder, clinic, address)
    if as_json:
        found = {"public_key": str(made.public_key), "fingerprint": made.fingerprint}
        typer.echo(json.dumps({"clinic_file": str(made.clinic_file), **found}))
        return
    typer.echo(f"clinic file: {made.clinic_file}; put study.toml and ca.pem of the coordinator beside it")
    typer.echo(f"send the coordinator {made.public_key}:\n{made.line}")
    typer.echo(f"its fingerprint, to compare by telephone: {made.fingerprint}")


@app.command()
def check(clinic: ClinicFile, as_json: Json = False) -> None:
    """Open this clinic's cells as a study would, and look at each hop on the way to the coordinator."""
    from wbc_client.dataset.cell_set import SPLITS
    from wbc_client.dataset.opening import open_cells
    from wbc_client.device import choose_device, describe_device
    from wbc_client.site import read_site
    from wbc_client.training.rehearsal import cells_to_rehearse

    site = read_site(clinic)
    study = site.read_study()
    device = describe_device(choose_device(site.device))
    opened = open_cells(site, study)
    role = study.role(site.clinic)
    num_rehearsed = len(cells_to_rehearse(study)) if role == "train" and study.training.rehearsal else 0
    counts = {split: opened.cells.part(split).class_counts().tolist() for split in SPLITS}
    findings = _way(site)
    if as_json:
        found = {"clinic": site.clinic, "role": role, "plan": study.hash, "device": device}
        hops = {"way": [{"hop": hop.hop, "found": hop.found, "ok": hop.error is None} for hop in findings]}
        cells = {"class_counts": counts, "left_out": opened.left_out, "rehearsed_cells": num_rehearsed}
        typer.echo(json.dumps({**found, **cells, "notes": opened.notes, **hops}))
    else:
        typer.echo(f"clinic {site.clinic}, {role}, plan {study.hash[:12]}, device {device}")
        for row, name in enumerate(study.classes.classes):
            typer.echo(f"  {name:22s}" + "".join(f"{counts[split][row]:8.0f} {split}" for split in SPLITS))
        for note in opened.notes:
            typer.echo(note)
        if num_rehearsed:
            typer.echo(f"training draws on {num_rehearsed:,} in-silico cells as well, which came with the package")
        for hop in findings:
            typer.echo(f"  {'ok ' if hop.error is None else 'BAD'} {hop.hop:10s} {hop.found}")
    failed = [hop.error for hop in findings if hop.error is not None]
    if failed:
        raise failed[0]


def _way(site: "Site") -> "list[Finding]":
    if site.coordinator is None:
        return []
    from wbc_client.node.checks import check_way

    return check_way(site)


@app.command()
def pack(
    clinic: ClinicFile,
    output: Annotated[Path, typer.Argument(help=".safetensors file to write; it stays on this machine")],
    as_json: Json = False,
) -> None:
    """Decode this clinic's cells once into one file, which data.kind = "packed" opens at once."""
    from wbc_client.dataset.packing import pack_cells
    from wbc_client.site import read_site

    packed = pack_cells(read_site(clinic), output)
    if as_json:
        typer.echo(json.dumps({"path": str(output), "cells": len(packed.cells), "notes": packed.notes}))
        return
    for note in packed.notes:
        typer.echo(note)
    typer.echo(f'to use it: kind = "packed" and path = "{output}" under [data], in place of what stands there now')


@app.command()
def approve(
    clinic: ClinicFile,
    yes: Annotated[bool, typer.Option("--yes", help="agree without being asked")] = False,
    as_json: Json = False,
) -> None:
    """Show the plan in plain words; sign its hash if you agree. Nothing runs under another plan."""
    from wbc_client.node.approval import approve_plan, plain_words
    from wbc_client.site import read_site
    from wbc_common.errors import PolicyError

    site = read_site(clinic)
    study = site.read_study()
    for line in plain_words(site, study):
        typer.echo(line, err=as_json)
    typer.echo(f"plan hash: {study.hash}", err=as_json)
    if not yes and not typer.confirm("Does this clinic agree?", err=as_json):
        raise PolicyError("the plan is not approved", remedy="talk to the coordinator; approve a plan you agree to")
    plan = approve_plan(site, study)
    typer.echo(
        json.dumps({"clinic": site.clinic, "plan": plan, "approved": True}) if as_json else "approved and signed"
    )


@app.command()
def start(clinic: ClinicFile) -> None:
    """Train or evaluate when asked, until stopped. Needs an approved plan and one outbound HTTPS connection."""
    from wbc_client.node.health import only_node
    from wbc_client.node.serving import prepare
    from wbc_client.site import read_site

    logging.getLogger().setLevel(logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    interrupt_on_signals()
    site = read_site(clinic)
    with only_node(site):
        node = prepare(clinic, site)
        try:
            node.work()
        finally:
            node.end()


@app.command()
def status(clinic: ClinicFile, as_json: Json = False) -> None:
    """How this clinic's node is: up, registered, opening, failing, approved, training. Exit code 0: it serves."""
    from wbc_client.node.health import read_health
    from wbc_client.site import read_site

    site = read_site(clinic)
    health = read_health(site)
    found = {"clinic": site.clinic, "state": health.state, "since": health.since, "ok": health.error is None}
    typer.echo(json.dumps(found) if as_json else f"clinic {site.clinic}: {health.state}")
    if health.error is not None:
        raise health.error


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="model.safetensors of a run")],
    images: Annotated[list[Path], typer.Argument(help="images of single cells, or folders of them")],
    head: Annotated[Path | None, typer.Option(help="personal-head.safetensors that this clinic kept")] = None,
    um_per_px: Annotated[
        float | None, typer.Option(min=1e-4, help="µm per pixel, for a model whose plan has images.field_um")
    ] = None,
    as_json: Json = False,
) -> None:
    """Classify single-cell images of one clinic together, on this machine. No clinical use.

    Probabilities are the network's for the image alone, not calibrated; where the cells beside it decided otherwise,
    the line ends with what it would be alone.
    """
    from wbc_client.predict import classify, image_files, load_model

    network, study = load_model(model)
    if head is not None:
        from wbc_client.personal import put_head

        put_head(network, head, study)
    for found in classify(network, study, image_files(images), um_per_px):
        if as_json:
            told = {"path": str(found.path), "class": found.cell_class, "alone": found.alone}
            typer.echo(json.dumps({**told, **found.probabilities}))
        else:
            alone = "" if found.alone == found.cell_class else f"\talone: {found.alone}"
            typer.echo(f"{found.path}\t{found.cell_class}\t{found.probability:.3f}{alone}")


@app.command()
def ledger(clinic: Annotated[Path, typer.Argument(help="clinic.toml")], as_json: Json = False) -> None:
    """What left this clinic: records and bytes by kind of task, from the egress ledger."""
    from wbc_client.site import read_site
    from wbc_client.state.ledger import read_departures

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
