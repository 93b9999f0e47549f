"""One run from experiment to finished folder: prepare, go on where it stopped, run."""

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from threading import Timer

from wbc_client.clinic import open_clinic
from wbc_client.location import clinic_files
from wbc_common.errors import SettingError
from wbc_common.study import StudyConfig, write_study
from wbc_server.run_folder import RunFolder
from wbc_simulations.bounds import finish_bound
from wbc_simulations.clinics import write_clinics
from wbc_simulations.engine.engines import EngineName, run_study
from wbc_simulations.experiment import Experiment, read_experiment, write_experiment

log = logging.getLogger(__name__)
EXPERIMENT_FILE = "experiment.toml"
RUNS = Path("runs")
_QUIET_SECONDS = 1.0  # cells that the cache has are there by then


def start_run(experiment: Experiment, study: StudyConfig, folder: RunFolder) -> None:
    """Lay out a new run folder.

    Raises:
        SettingError: the folder holds something already.
    """
    _refuse_full(folder)
    _lay_out(experiment, study, folder)


@contextmanager
def new_run(experiment: Experiment, study: StudyConfig, folder: RunFolder) -> Iterator[None]:
    """A new run folder, taken away again where the run fails before a round is kept: there is nothing to go on with.

    Ctrl-C leaves it, to go on with.

    Raises:
        SettingError: the folder holds something already.
    """
    was_there = folder.path.exists()
    _refuse_full(folder)
    try:
        _lay_out(experiment, study, folder)
        yield
    except Exception:
        if not holds_rounds(folder):
            shutil.rmtree(folder.path, ignore_errors=True)
            if was_there:
                folder.path.mkdir(exist_ok=True)
        raise


def holds_rounds(folder: RunFolder) -> bool:
    """Whether a run, or a part of a bound, has kept a round."""
    return any(any(folder.path.rglob(file.name)) for file in (folder.journal, folder.kept_round))


def _refuse_full(folder: RunFolder) -> None:
    if folder.path.exists() and any(folder.path.iterdir()):
        raise SettingError(
            f"{folder.path} is not empty", remedy="choose another --output, or go on with that run: --resume"
        )


def _lay_out(experiment: Experiment, study: StudyConfig, folder: RunFolder) -> None:
    folder.path.mkdir(parents=True, exist_ok=True)
    write_experiment(experiment, folder.path / EXPERIMENT_FILE)
    write_study(study, folder.study_file)
    _write_provenance(study, folder.study_file)


def continue_run(folder: RunFolder) -> tuple[Experiment, StudyConfig]:
    """The experiment and plan of a run that was started.

    Raises:
        SettingError: there is none in the folder.
    """
    if not folder.study_file.exists():
        raise SettingError(f"{folder.path} holds no run to go on with", remedy="start one without --resume")
    return read_experiment(folder.path / EXPERIMENT_FILE), folder.study()


def finish_run(
    experiment: Experiment,
    study: StudyConfig,
    folder: RunFolder,
    engine: EngineName,
    *,
    ray_address: str | None = None,
    on_wait: Callable[[str], object] = log.info,
) -> None:
    """Run what is left of a study; nothing if it is finished.

    Clinics are opened first, so that data that cannot be used stop the run before it begins, in the user's own words.

    Args:
        on_wait: takes what the run is waiting for before its first round, where that takes longer than a moment.
    """
    if folder.is_finished:
        return
    clinics = _ready_clinics(experiment, study, folder, on_wait)
    if experiment.kind != "federated":
        finish_bound(experiment.kind, study, folder, clinics, engine)
        return
    run_study(folder, clinics, engine, ray_address=ray_address)


def _ready_clinics(
    experiment: Experiment, study: StudyConfig, folder: RunFolder, on_wait: Callable[[str], object]
) -> Path:
    """The folder of the clinic files, each opened once."""
    cells = f"the cells of {len((*study.clinics.train, *study.clinics.held_out))} clinics …"
    with _said_if_slow(f"{'rendering' if experiment.data.kind == 'phantom' else 'reading'} {cells}", on_wait):
        clinics = write_clinics(experiment, study, folder.path)
    with _said_if_slow(f"opening {cells}", on_wait):
        for path in clinic_files(clinics):
            open_clinic(path)
    return clinics


@contextmanager
def _said_if_slow(text: str, on_wait: Callable[[str], object]) -> Iterator[None]:
    timer = Timer(_QUIET_SECONDS, on_wait, [text])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def dated_folder() -> Path:
    """runs/2026-11-24T10-31-05, or with a number behind it where two runs start in one second."""
    name = datetime.now().astimezone().strftime("%Y-%m-%dT%H-%M-%S")
    candidates = [RUNS / name, *(RUNS / f"{name}-{number}" for number in range(2, 1000))]
    return next(path for path in candidates if not path.exists())


def unfinished_run() -> Path:
    """The newest run under runs/ that is not finished.

    Raises:
        SettingError: there is none.
    """
    open_runs = [path.parent for path in RUNS.glob("*/study.toml") if not RunFolder(path.parent).is_finished]
    if not open_runs:
        raise SettingError(f"no unfinished run under {RUNS}/", remedy="name one: --output DIR --resume")
    return max(open_runs, key=lambda path: path.stat().st_mtime)


def _write_provenance(study: StudyConfig, path: Path) -> None:
    """Hash and versions as comments, which a reader sees and the plan's parser does not."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("wbc-fl", "torch", "flwr"))
    head = f"# plan {study.hash}\n# seed {study.seed}\n# run with {packages}\n\n"
    path.write_text(head + path.read_text(encoding="utf-8"), encoding="utf-8")
