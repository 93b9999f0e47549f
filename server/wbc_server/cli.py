"""`wbc-server`: the coordinator's commands."""

import json
import logging
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from wbc_common.terminal import interrupt_on_signals, run_command

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

Folder = Annotated[Path, typer.Argument(help="the coordinator's folder of a study")]
Clinic = Annotated[str, typer.Option(help="the clinic's name in the plan")]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]


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


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="folder to make")],
    host: Annotated[list[str], typer.Option(help="name or address that clinics connect to; may be repeated")],
    port: Annotated[int, typer.Option(min=1, max=65535, help="port that clinics connect to")] = 8443,
    bind: Annotated[str, typer.Option(help="address to listen on")] = "0.0.0.0",
    study: Annotated[Path | None, typer.Option(help="plan to copy; default: an example to edit")] = None,
    as_json: Json = False,
) -> None:
    """Make a coordinator's folder: plan, certificates, settings, an empty register of clinics."""
    from wbc_server.link.setup import make_folder

    made = make_folder(folder, hosts=host, port=port, bind=bind, study=study)
    _tell(
        as_json,
        {"folder": str(folder), "plan": made.study().hash, "send": [str(made.study_file), str(made.authority)]},
        f"made {folder}; edit {made.study_file} now, before any clinic approves it\n"
        f"send each clinic: {made.study_file} and {made.authority}",
    )


@app.command()
def enrol(
    folder: Folder,
    clinic: Clinic,
    key: Annotated[Path, typer.Option(help="the public key that the clinic sent (.pub)")],
    role: Annotated[Literal["train", "held-out"] | None, typer.Option(help="refused unless the plan's")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="put it in place of the clinic's earlier key")] = False,
    as_json: Json = False,
) -> None:
    """Let a clinic connect with its key. Compare the fingerprint with the clinic by telephone."""
    from wbc_common.errors import SettingError
    from wbc_server.link.folder import StudyFolder
    from wbc_server.link.register import changing, read_register, write_register

    study_folder = StudyFolder(folder)
    study_folder.settings()
    try:
        line = key.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"cannot read key {key}", remedy="name the .pub file that the clinic sent") from error
    with changing(study_folder.register_file):
        register = read_register(study_folder.register_file)
        register = register.enrol(study_folder.study(), clinic, line, role, replace=replace)
        write_register(study_folder.register_file, register)
    entry = register.active()[clinic]
    _tell(as_json, entry.model_dump(), f"clinic {clinic} ({entry.role}) enrolled with key {entry.fingerprint}")


@app.command()
def revoke(folder: Folder, clinic: Clinic, as_json: Json = False) -> None:
    """Let a clinic's key count no more, from its next request on."""
    from wbc_server.link.folder import StudyFolder
    from wbc_server.link.register import changing, read_register, write_register

    study_folder = StudyFolder(folder)
    study_folder.settings()
    with changing(study_folder.register_file):
        register = read_register(study_folder.register_file).revoke(clinic)
        write_register(study_folder.register_file, register)
    _tell(as_json, {"clinic": clinic, "revoked": True}, f"the key of clinic {clinic} counts no more")


@app.command(name="list")
def list_clinics(folder: Folder, as_json: Json = False) -> None:
    """Who is enrolled, with which key, since when; revoked keys too."""
    from wbc_server.link.folder import StudyFolder
    from wbc_server.link.register import read_register

    study_folder = StudyFolder(folder)
    study = study_folder.study()
    register = read_register(study_folder.register_file)
    entries = [entry.model_dump() for entry in register.enrolments]
    waiting = [name for name in (*study.clinics.train, *study.clinics.held_out) if name not in register.active()]
    lines = [
        f"{entry.clinic:24s} {entry.role:9s} {entry.fingerprint} enrolled {entry.enrolled}"
        + (f", revoked {entry.revoked}" if entry.revoked else "")
        for entry in register.enrolments
    ]
    lines += [f"{name:24s} {study.role(name):9s} no key yet" for name in waiting]
    _tell(as_json, {"enrolled": entries, "without_key": waiting}, "\n".join(lines))


@app.command()
def renew(folder: Folder) -> None:
    """Make new certificates of the same authority; clinics need nothing new. Restart the coordinator after it."""
    from wbc_server.link.folder import StudyFolder
    from wbc_server.link.setup import renew_certificates

    renew_certificates(StudyFolder(folder))
    typer.echo("certificates renewed; restart the coordinator: wbc-server stop, then resume")


@app.command()
def start(
    folder: Folder,
    or_resume: Annotated[bool, typer.Option("--or-resume", help="go on if it has begun; for a service")] = False,
) -> None:
    """Wait for the clinics of the plan, run the study to its report, end."""
    _serve(folder, resume=None if or_resume else False)


@app.command()
def resume(folder: Folder) -> None:
    """Go on with an interrupted study from its last whole round."""
    _serve(folder, resume=True)


@app.command()
def status(
    folder: Folder,
    health: Annotated[bool, typer.Option("--health", help="fail unless it runs and its gateway answers")] = False,
    as_json: Json = False,
) -> None:
    """What runs, how far the study is, which clinics were missing."""
    from wbc_server.link.folder import StudyFolder
    from wbc_server.link.standing import check_runs, standing

    found = standing(StudyFolder(folder))
    _tell(as_json, found, "\n".join(f"{name.replace('_', ' ')}: {_plain(value)}" for name, value in found.items()))
    if health:
        check_runs(StudyFolder(folder))


@app.command()
def stop(folder: Folder) -> None:
    """End the coordinator; the study can be resumed."""
    from wbc_server.link.folder import StudyFolder
    from wbc_server.link.standing import stop_coordinator

    stop_coordinator(StudyFolder(folder))
    typer.echo("stopped; go on with: wbc-server resume")


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="folder for everything; new or empty")] = Path("federation-demo"),
) -> None:
    """A whole federation on this machine: TLS, three training clinics and one held out, in-silico cells."""
    import subprocess

    # The in-silico cells are the simulation's, which this room may not import; it is asked as a program.
    done = subprocess.run([sys.executable, "-m", "wbc_simulations.federation", str(output)], check=False)
    raise typer.Exit(done.returncode)


def _serve(path: Path, *, resume: bool | None) -> None:
    from wbc_common.errors import SettingError
    from wbc_server.link.folder import StudyFolder
    from wbc_server.link.starting import check_certificates, lay_out_run, only_one, prepare

    logging.getLogger().setLevel(logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    folder = StudyFolder(path.resolve())
    folder.settings()
    if folder.run.is_finished:
        typer.echo(f"this study is finished; its report: {folder.run.report}")
        return
    if resume is not None and resume != folder.run.study_file.exists():
        word = "start" if resume else "resume"
        raise SettingError(
            "this study has not begun" if resume else "this study has begun", remedy=f"use: wbc-server {word} {path}"
        )
    for warning in check_certificates(folder):
        typer.echo(f"warning: {warning}", err=True)
    interrupt_on_signals()
    with only_one(folder):
        study = lay_out_run(folder)
        typer.echo(f"study {study.name}, plan {study.hash[:12]}, gateway on port {folder.settings().port}")
        coordinator = prepare(folder, typer.echo)
        try:
            coordinator.work()
        finally:
            coordinator.end()
    typer.echo(f"report: {folder.run.report}")


def _tell(as_json: bool, values: dict[str, Any], text: str) -> None:
    typer.echo(json.dumps(values) if as_json else text)


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(item["clinic"] if isinstance(item, dict) else str(item) for item in value) or "none"
    return "none" if value is None else str(value)


def main() -> None:
    """Entry point."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    run_command(app)
