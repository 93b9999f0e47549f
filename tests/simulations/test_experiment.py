"""Experiment files: who is held out, what a setting changes, and which mistakes are named."""

from pathlib import Path
from typing import Any

import pytest

from studies import tiny_experiment
from wbc_common.errors import DataError, SettingError
from wbc_simulations.experiment import (
    DEFAULT_EXPERIMENT,
    Comparison,
    Experiment,
    Method,
    all_clinics,
    plan_study,
    read_experiment,
    with_method,
    write_experiment,
)

SHIPPED = sorted((Path(__file__).parents[2] / "simulations" / "experiments").glob("*.toml"))
PHANTOM = '[study]\nname = "mine"\n[data]\nkind = "phantom"\n'
A_CLINIC = '[[data.clinics]]\nclinic = "east"\ndomain = "pale_wright"\n'


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def cells_of(folder: Path, *clinics: str) -> Path:
    """A folder whose manifest names these clinics; its images are never opened here."""
    rows = "".join(f"{clinic}/1.png,monocyte,{clinic}\n" for clinic in clinics)
    folder.mkdir(exist_ok=True)
    (folder / "manifest.csv").write_text("path,label,clinic\n" + rows, encoding="utf-8")
    return folder


def test_the_clinics_role_in_the_file_decides_who_is_held_out() -> None:
    study = plan_study(tiny_experiment())
    assert (study.clinics.train, study.clinics.held_out) == (("east", "north"), ("west",))


def test_held_out_on_the_command_line_goes_before_the_file() -> None:
    study = plan_study(tiny_experiment(), held_out=["north"])
    assert (study.clinics.train, study.clinics.held_out) == (("east", "west"), ("north",))


def test_an_unknown_clinic_to_hold_out_is_named_beside_those_that_exist() -> None:
    with pytest.raises(SettingError, match="no clinic is called south") as refused:
        plan_study(tiny_experiment(), held_out=["south"])
    assert "east, north, west" in refused.value.remedy


def test_nobody_left_to_train_is_refused() -> None:
    with pytest.raises(SettingError, match=r"clinics\.train"):
        plan_study(tiny_experiment(), held_out=["east", "north", "west"])


def test_dotted_settings_reach_into_tables_and_leave_their_neighbours() -> None:
    study = plan_study(tiny_experiment(), changes={"loss.tau": 0.5, "seed": 3, "model.backbone": "resnet18"})
    assert (study.loss.tau, study.seed, study.model.backbone) == (0.5, 3, "resnet18")
    assert study.loss.alignment_min_cells == 2  # of the file


@pytest.mark.parametrize(
    ("key", "message"),
    [("loss.tua", r"unknown setting 'loss.tua' \(did you mean 'tau'\?\)"), ("rouns", "did you mean 'rounds'")],
)
def test_an_unknown_setting_is_named_with_its_nearest_neighbour(key: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        plan_study(tiny_experiment(), changes={key: 1})


@pytest.mark.parametrize("key", ["rounds.x", "name.x.y", "loss.tau.x"])
def test_a_setting_below_one_that_is_no_table_is_refused(key: str) -> None:
    with pytest.raises(SettingError, match="no table"):
        plan_study(tiny_experiment(), changes={"loss.tau": 0.5, key: 1})


def test_in_silico_cells_have_no_field_in_micrometres() -> None:
    with pytest.raises(SettingError, match="framed by their domain"):
        plan_study(tiny_experiment(), changes={"images.framing": "as-is", "images.field_um": 20})


def test_a_change_to_one_plan_leaves_the_experiment_as_it_was() -> None:
    experiment = tiny_experiment(clinics={"train": ["east", "north"], "held_out": ["west"]})
    before = experiment.model_dump()
    changed = plan_study(experiment, changes={"clinics.train": ["north"]})
    assert changed.clinics.train == ("north",)
    assert experiment.model_dump() == before


def test_a_plan_with_a_clinic_that_has_no_cells_is_refused() -> None:
    with pytest.raises(SettingError, match="nobody"):
        plan_study(tiny_experiment(), changes={"clinics.train": ["east", "nobody"]})


def test_a_folder_of_cells_replaces_the_in_silico_clinics(tmp_path: Path) -> None:
    cells = cells_of(tmp_path / "cells", "rome", "oslo", "kiel")
    experiment = read_experiment(DEFAULT_EXPERIMENT, cells)
    assert (experiment.data.kind, experiment.data.clinics) == ("manifest", ())
    assert all_clinics(experiment) == ("kiel", "oslo", "rome")
    study = plan_study(experiment, held_out=["rome"])
    assert (study.clinics.train, study.clinics.held_out) == (("kiel", "oslo"), ("rome",))


def test_real_cells_without_a_word_on_who_is_held_out_ask_for_it(tmp_path: Path) -> None:
    experiment = read_experiment(DEFAULT_EXPERIMENT, cells_of(tmp_path / "cells", "rome", "oslo"))
    with pytest.raises(SettingError, match="oslo, rome") as refused:
        plan_study(experiment)
    assert "--held-out" in refused.value.remedy


def test_a_folder_without_a_manifest_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        plan_study(read_experiment(DEFAULT_EXPERIMENT, tmp_path / "nowhere"))


def test_a_path_in_the_file_is_taken_from_the_files_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = cells_of(tmp_path / "cells", "rome", "oslo")
    path = written(tmp_path, '[study]\nname = "mine"\n[data]\nkind = "manifest"\npath = "cells"\n')
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert read_experiment(path).data.path == cells


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[study]\nname = "mine"\n[data]\nkind = "manifest"\n', "does not say where they are"),
        (PHANTOM, "lists no in-silico clinic"),
        (PHANTOM + A_CLINIC + "cels = 3\n", "did you mean 'cells'|unknown setting 'data.clinics.0.cels'"),
        (PHANTOM + A_CLINIC + '[compare]\n[[compare.methods]]\nname = "a"\nbaseline = "b"\n', "no method is called b"),
        ("[study\n", "not valid TOML"),
    ],
)
def test_mistakes_in_a_file_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        read_experiment(written(tmp_path, text))


def test_an_experiment_survives_its_file(tmp_path: Path) -> None:
    experiment = tiny_experiment().model_copy(
        update={"compare": Comparison(seeds=(1, 2), methods=(Method(name="a", settings={"loss": {"tau": 0.0}}),))}
    )
    write_experiment(experiment, tmp_path / "experiment.toml")
    assert read_experiment(tmp_path / "experiment.toml") == experiment


def test_a_method_replaces_settings_table_by_table_and_nothing_else() -> None:
    experiment = tiny_experiment()
    changed = with_method(experiment, Method(name="plain", settings={"loss": {"tau": 0.0}, "model": {}}))
    plain, full = plan_study(changed), plan_study(experiment)
    assert plain == full.model_copy(update={"loss": full.loss.model_copy(update={"tau": 0.0})})


@pytest.mark.parametrize("path", [DEFAULT_EXPERIMENT, *SHIPPED], ids=lambda path: path.stem)
def test_every_shipped_experiment_plans_each_of_its_methods(path: Path, tmp_path: Path) -> None:
    named: dict[str, Any] = read_toml_of(path)["study"].get("clinics", {})
    clinics = [*named.get("train", ()), *named.get("held_out", ())]
    is_real = read_toml_of(path)["data"]["kind"] == "manifest"
    experiment = read_experiment(path, cells_of(tmp_path / "cells", *clinics) if is_real else None)
    plans = [plan_study(experiment)]
    plans += [plan_study(with_method(experiment, method)) for method in experiment.compare.methods]
    assert all(plan.clinics.held_out for plan in plans)
    # A bound may have the plan of a method that it bounds.
    kinds = [experiment.kind, *(method.kind for method in experiment.compare.methods)]
    assert len({(kind, plan.hash) for kind, plan in zip(kinds, plans, strict=True)}) >= len(experiment.compare.methods)


def read_toml_of(path: Path) -> dict[str, Any]:
    from wbc_common.study import read_toml

    return read_toml(path)


def test_there_are_shipped_experiments_to_check() -> None:
    assert SHIPPED
    assert isinstance(read_experiment(DEFAULT_EXPERIMENT), Experiment)


def test_an_in_silico_study_starts_at_random_unless_it_says_otherwise() -> None:
    experiment = tiny_experiment()
    assert plan_study(experiment).model.weights == "none"
    assert plan_study(experiment).training.rehearsal == 0
    assert plan_study(experiment, changes={"training.rehearsal": 0.5}).training.rehearsal == 0.5
    assert plan_study(experiment, changes={"model.weights": "phantom"}).model.weights == "phantom"
