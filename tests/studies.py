"""Small studies that every room's tests can run: in-silico clinics, a few cells each, seconds a study."""

from pathlib import Path
from typing import Any

from wbc_common.cells import REGISTRIES
from wbc_common.head_rows import HeadRows
from wbc_common.study import StudyConfig
from wbc_server.run_folder import RunFolder
from wbc_simulations.experiment import DataSource, Experiment, PhantomClinic, plan_study
from wbc_simulations.running import finish_run, start_run

CLINICS = (
    PhantomClinic(clinic="east", domain="dm96_mgg", cells=60, patients=10),
    PhantomClinic(clinic="north", domain="rapid_yellow", cells=40, patients=8),
    PhantomClinic(clinic="west", role="held-out", domain="phone_cast", cells=30, patients=6),
)
SETTINGS: dict[str, Any] = {
    "name": "tiny",
    "registry": "wbc5",
    "rounds": 2,
    "images": {"size_px": 32},
    "training": {"local_epochs": 1, "batch_size": 16},
    "loss": {"alignment_min_cells": 2, "alignment_warmup": 0.0},
    "evaluation": {"bootstrap_replicates": 20},
}

# L2 is for three training clinics or more.
ALIGNED_CLINICS = (*CLINICS, PhantomClinic(clinic="south", domain="pale_wright", cells=30, patients=6))
ALIGNED_LOSS: dict[str, Any] = {**SETTINGS["loss"], "alignment_weight": 0.1}


def rows(num_classes: int) -> HeadRows:
    """A row for each of 5, 11 or 13 classes."""
    return REGISTRIES[f"wbc{num_classes}"].head_rows(fine=False)


def tiny_experiment(**settings: Any) -> Experiment:
    """Two training clinics and one held out, 32 px, two rounds; `settings` replace tables of the study."""
    return Experiment(study={**SETTINGS, **settings}, data=DataSource(kind="phantom", clinics=CLINICS))


def aligned_experiment(**settings: Any) -> Experiment:
    """The same with a third training clinic, and L2; `settings` replace tables of the study."""
    study = {**SETTINGS, "loss": ALIGNED_LOSS, **settings}
    return Experiment(study=study, data=DataSource(kind="phantom", clinics=ALIGNED_CLINICS))


def run_tiny(folder: Path, experiment: Experiment | None = None) -> tuple[RunFolder, StudyConfig]:
    """Run a small study in process to its end."""
    experiment = experiment or tiny_experiment()
    study = plan_study(experiment)
    run = RunFolder(folder)
    start_run(experiment, study, run)
    finish_run(experiment, study, run, "in-process")
    return run, study
