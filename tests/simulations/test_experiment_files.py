"""Every experiment file of the repository can be run: each method of it makes a plan for each clinic left out."""

from pathlib import Path

import pytest

from wbc_simulations.experiment import all_clinics, plan_study, read_experiment, with_method

FOLDER = Path(__file__).parents[2] / "simulations" / "experiments"
FILES = sorted(FOLDER.glob("*.toml"))


def manifest(folder: Path) -> Path:
    """A folder that names the four public clinics and has no image."""
    rows = [f"{clinic}.png,neutrophil,{clinic}" for clinic in ("bccd", "chula", "pbc_sample", "tecom")]
    (folder / "manifest.csv").write_text("\n".join(["path,label,clinic", *rows]) + "\n")
    return folder


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_method_makes_a_plan_for_each_fold(path: Path, tmp_path: Path) -> None:
    data = manifest(tmp_path) if 'kind = "manifest"' in path.read_text() else None
    experiment = read_experiment(path, data)
    plans = {
        (method.name, fold): plan_study(with_method(experiment, method), held_out=[fold])
        for method in experiment.compare.methods
        for fold in all_clinics(experiment)
    }
    assert len({plan.hash for plan in plans.values()}) >= len(plans) / 2  # bounds share their method's plan


def test_the_tables_of_methods_hold_every_baseline_and_bound() -> None:
    kinds = {method.kind for method in read_experiment(FOLDER / "in-silico-natural.toml").compare.methods}
    assert kinds == {"federated", "local-only", "centralised", "centralised-boda", "in-domain-oracle"}
