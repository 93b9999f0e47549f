"""`wbc-simulate` as it is typed: exit codes, what goes to stdout, and the way back after Ctrl-C."""

import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from studies import tiny_experiment
from wbc_client.dataset.packed import read_packed
from wbc_common.errors import DataError
from wbc_server.run_folder import RunFolder
from wbc_simulations import pretrain, running
from wbc_simulations.cli import main
from wbc_simulations.clinics import phantom_cells
from wbc_simulations.experiment import Experiment, plan_study, write_experiment


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def study_file(tmp_path: Path) -> str:
    write_experiment(tiny_experiment(), tmp_path / "tiny.toml")
    return str(tmp_path / "tiny.toml")


@pytest.fixture
def exit_of(monkeypatch: pytest.MonkeyPatch):
    """Run the command line as a shell does and give its exit code."""

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["wbc-simulate", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        return int(left.value.code or 0)

    return run


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "--set", "loss.tua=1"], 2, "did you mean 'tau'"),
        (["run", "--set", "loss.tau"], 2, "write --set loss.tau=0.5"),
        (["run", "--set", "rounds.x=1"], 2, "no table"),
        (["run", "--held-out", "atlantis"], 2, "no clinic is called atlantis"),
        (["run", "--study", "nowhere.toml"], 2, "cannot read nowhere.toml"),
        (["run", "--data", "nowhere"], 3, "nowhere"),
        (["run", "--resume"], 2, "no unfinished run"),
        (["run", "--resume", "--output", "nowhere"], 2, "no run to go on with"),
        (["run", "--set", "model.weights=start.safetensors"], 3, "no such file"),
        (["sweep", "--set", "model.weights=start.safetensors"], 3, "wbc-simulate pretrain start.safetensors"),
        (["run", "--ray-address", "10.0.0.1:6379"], 2, "for the engine 'ray'"),
        (["run", "--engine", "ray", "--ray-address", "127.0.0.1:1"], 4, "cannot use Ray at 127.0.0.1:1"),
        (["compare"], 2, "no method to compare"),
        (["sweep", "--seed", "9"], 2, "no seed 9"),
        (["sweep", "--fold", "atlantis"], 2, "no clinic is called atlantis"),
        (["sweep", "--set", "seed=3"], 2, "another seed"),
        (["sweep", "--status", "--method", "magic"], 2, "no method is called magic"),
        (["splits", "--output", "splits.jpeg"], 2, "cannot be written as splits.jpeg"),
        (["splits", "--set", "data.skew.deal=cell"], 2, "needs 'clinics'"),
        (["splits", "--set", "data.skew.label_alpha=0"], 2, "label_alpha = 0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_ends_with_its_code_one_message_and_a_next_step(
    exit_of, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    assert exit_of(*arguments) == code
    said = capsys.readouterr().err
    assert message in said
    assert "next step" in said
    assert "Traceback" not in said
    assert not Path("runs").exists()


def test_an_experiment_on_real_cells_without_a_folder_exits_2(exit_of, capsys: pytest.CaptureFixture[str]) -> None:
    Path("real.toml").write_text('[study]\nname = "real"\n[data]\nkind = "manifest"\n')
    assert exit_of("run", "--study", "real.toml") == 2
    assert "--data" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"\xff\xfe\x00\x01", b"", b"only,these\n1,2\n"], ids=["bytes", "empty", "columns"])
def test_a_manifest_that_cannot_be_read_exits_3(exit_of, capsys: pytest.CaptureFixture[str], content: bytes) -> None:
    Path("cells").mkdir()
    Path("cells/manifest.csv").write_bytes(content)
    assert exit_of("run", "--data", "cells", "--held-out", "x") == 3
    said = capsys.readouterr().err
    assert "next step" in said
    assert "Traceback" not in said


def test_help_says_that_a_clinic_held_out_by_the_file_trains_when_another_is_named(
    exit_of, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setenv("TERMINAL_WIDTH", "400")
    assert exit_of("run", "--help") == 0
    assert "which then train" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--study", "--data", "--held-out", "--set"])
def test_resume_takes_no_other_plan(exit_of, capsys: pytest.CaptureFixture[str], option: str) -> None:
    assert exit_of("run", "--resume", option, "loss.tau=1") == 2
    assert f"takes no other: {option}\n" in capsys.readouterr().err


def test_ctrl_c_says_how_to_go_on_and_exits_130(
    exit_of, study_file: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "finish_run", interrupted)
    assert exit_of("run", "--study", study_file, "--output", "out") == 130
    assert "go on with: wbc-simulate run --output out --resume" in capsys.readouterr().out
    gone_on: list[tuple[Experiment, RunFolder]] = []

    def finish(experiment: Experiment, plan: object, folder: RunFolder, engine: str, **options: object) -> None:
        gone_on.append((experiment, folder))
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "finish_run", finish)
    assert exit_of("run", "--output", "out", "--resume") == 130
    assert gone_on == [(tiny_experiment(), RunFolder(Path("out")))]


@pytest.mark.parametrize("was_there", [True, False], ids=["in an empty folder", "in a new folder"])
def test_a_run_that_fails_before_its_first_round_leaves_nothing_and_its_folder_can_be_used(
    exit_of, study_file: str, capsys: pytest.CaptureFixture[str], was_there: bool
) -> None:
    Path("damaged.safetensors").write_bytes(b"no network")
    folder = Path("runs/mine")
    if was_there:
        folder.mkdir(parents=True)
    started = ["run", "--study", study_file, "--output", str(folder)]
    assert exit_of(*started, "--set", "model.weights=damaged.safetensors") == 3
    assert "cannot read weights damaged.safetensors" in capsys.readouterr().err
    assert folder.exists() == was_there
    assert exit_of("run", "--resume") == 2
    assert "no unfinished run" in capsys.readouterr().err
    assert exit_of(*started, "--set", "rounds=1") == 0


def test_a_run_that_fails_after_a_round_is_kept(exit_of, study_file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(experiment: object, plan: object, folder: RunFolder, engine: str, **options: object) -> None:
        folder.journal.touch()
        raise OSError("disk full")

    monkeypatch.setattr(running, "finish_run", fail)
    assert exit_of("run", "--study", study_file, "--output", "out") == 1
    assert RunFolder(Path("out")).study() == plan_study(tiny_experiment())


def test_a_run_that_renders_says_so_on_stderr_and_one_that_finds_its_cells_does_not(
    exit_of, study_file: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(*arguments: object) -> Path:
        time.sleep(0.2)
        raise DataError("no cell", remedy="bring some")

    monkeypatch.setattr(running, "_QUIET_SECONDS", 0.05)
    monkeypatch.setattr(running, "write_clinics", slowly)
    assert exit_of("run", "--study", study_file) == 3
    out, err = capsys.readouterr()
    assert "rendering the cells of 3 clinics …\n" in err
    assert "rendering" not in out
    monkeypatch.setattr(running, "_QUIET_SECONDS", 60.0)
    assert exit_of("run", "--study", study_file) == 3
    assert "rendering" not in capsys.readouterr().err


def test_settings_and_held_out_clinics_reach_the_plan(
    exit_of, study_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "finish_run", interrupted)
    settings = ["--set", "loss.tau=0.5", "--set", "model.backbone=resnet18", "--set", "images.white_balance=false"]
    exit_of("run", "--study", study_file, "--output", "out", "--held-out", "north", *settings)
    plan = RunFolder(Path("out")).study()
    assert (plan.loss.tau, plan.model.backbone, plan.images.white_balance) == (0.5, "resnet18", False)
    assert plan.clinics.held_out == ("north",)
    assert plan.rounds == plan_study(tiny_experiment()).rounds


def test_json_is_all_that_goes_to_stdout(exit_of, finished_run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_of("run", "--resume", "--output", str(finished_run.path), "--json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == finished_run.read_metrics()
    assert "study tiny" in err


def test_a_finished_run_shows_its_table_and_its_report(
    exit_of, finished_run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_of("run", "--resume", "--output", str(finished_run.path)) == 0
    out = capsys.readouterr().out
    assert "model of round" in out
    assert "report.html" in out.replace("\n", "")


def test_a_folder_that_holds_a_run_is_not_written_over(
    exit_of, study_file: str, finished_run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    before = finished_run.study_file.read_bytes()
    assert exit_of("run", "--study", study_file, "--output", str(finished_run.path)) == 2
    assert "is not empty" in capsys.readouterr().err
    assert finished_run.study_file.read_bytes() == before


@pytest.fixture
def _grey_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Grey cells at once instead of drawn ones."""

    def grey(classes: torch.Tensor, *arguments: object, size_px: int, **options: object) -> torch.Tensor:
        return torch.full((len(classes), 3, size_px, size_px), 128, dtype=torch.uint8)

    monkeypatch.setattr(pretrain, "render", grey)


@pytest.mark.usefixtures("_grey_cells")
def test_pretraining_says_what_the_network_is_worth_on_looks_left_out(
    exit_of, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--domain", "pale_wright", "--cells", "1000", "--epochs", "1", "--size-px", "16")
    assert exit_of("pretrain", "one.safetensors", *arguments) == 0
    output = capsys.readouterr()
    assert output.err.splitlines() == [f"rendered {tenth}00 of 1000 cells" for tenth in range(1, 11)]
    told = output.out.splitlines()[-1]
    assert told.startswith(
        "on looks that were left out: 0.077 (blue_giemsa 0.077, dm96_mgg 0.077, "
    )  # guesses: 1 of 13
    assert "pale_wright" not in told
    assert exit_of("pretrain", "x.safetensors", "--cells", "1000", "--nuclear-stain", "2") == 2
    assert "images: nuclear_stain" in capsys.readouterr().err


@pytest.mark.usefixtures("_grey_cells")
def test_rehearsal_cells_are_made_where_a_name_fits(exit_of, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_of("rehearsal-cells", "cells.safetensors", "--blends", "2") == 0
    assert "26 cells in cells.safetensors" in capsys.readouterr().out
    assert exit_of("rehearsal-cells", "cells.npz") == 2


def test_rendered_cells_are_those_that_the_study_trains_on(exit_of, tmp_path: Path) -> None:
    data = tiny_experiment().data.model_copy(update={"seed": 3})
    experiment = tiny_experiment(registry="wbc13").model_copy(update={"data": data})
    write_experiment(experiment, tmp_path / "all-classes.toml")
    assert exit_of("render", "cells", "--study", str(tmp_path / "all-classes.toml")) == 0
    north = next(clinic for clinic in data.clinics if clinic.clinic == "north")
    cells = read_packed(phantom_cells(north, plan_study(experiment), data.seed))
    files = sorted(Path("cells/north").rglob("*.png"), key=lambda file: file.stem)
    for file, image in zip(files, cells.images, strict=True):
        assert np.array_equal(np.asarray(Image.open(file)), image.permute(1, 2, 0).numpy())


def test_a_study_on_real_cells_has_none_to_render(exit_of, capsys: pytest.CaptureFixture[str]) -> None:
    Path("real.toml").write_text('[study]\nname = "real"\n[data]\nkind = "manifest"\npath = "elsewhere"\n')
    assert exit_of("render", "cells", "--study", "real.toml") == 2
    assert "works on real cells: there is nothing to render" in capsys.readouterr().err
