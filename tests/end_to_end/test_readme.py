"""What a reader copies from the README works: commands exist with these options, the clinic file is valid."""

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from wbc_client import cli as client_cli
from wbc_client.site import read_site
from wbc_common.cells import registry
from wbc_server import cli as server_cli
from wbc_simulations import cli as simulation_cli

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
APPS = {"wbc-client": client_cli.app, "wbc-server": server_cli.app, "wbc-simulate": simulation_cli.app}


def blocks(language: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
    return [text for name, text in fenced if name == language]


def toml_block(name: str) -> str:
    """The TOML whose first line is its file's name."""
    return next(block for block in blocks("toml") if block.startswith(f"# {name}\n"))


def our_commands() -> list[str]:
    lines = [part.strip() for block in blocks("") for line in block.splitlines() for part in line.split("&&")]
    return [line.split("  #")[0].strip() for line in lines if line.startswith("wbc-")]


def test_the_readme_shows_every_command() -> None:
    shown = {tuple(command.split()[:2]) for command in our_commands()}
    exist = {(name, sub) for name, app in APPS.items() for sub in get_command(app).commands}  # type: ignore[attr-defined]
    assert exist == shown


@pytest.mark.parametrize("command", our_commands())
def test_a_command_of_the_readme_parses(command: str) -> None:
    program, subcommand, *arguments = shlex.split(command)
    parser = get_command(APPS[program]).commands[subcommand]  # type: ignore[attr-defined]
    parser.make_context(subcommand, arguments)


@pytest.mark.parametrize("name", re.findall(r"simulations/experiments/\S+\.toml", README))
def test_a_study_file_of_the_readme_exists(name: str) -> None:
    assert (REPOSITORY / name).exists()


def test_the_clinic_file_of_the_readme_is_valid(tmp_path: Path) -> None:
    (tmp_path / "clinic.toml").write_text(toml_block("clinic.toml"), encoding="utf-8")
    site = read_site(tmp_path / "clinic.toml")
    assert site.clinic == "munich"
    assert registry("wbc13").resolve("stabkernig", site.data.labels) == registry("wbc13").resolve("band_neutrophil")


def test_the_readmes_settings_exist() -> None:
    from wbc_common.study import StudyConfig

    for table, key in re.findall(r"`(loss|aggregation|training|model|participation)\.(?!safetensors)(\w+)`", README):
        settings = StudyConfig.model_fields[table].annotation
        assert key in settings.model_fields, f"{table}.{key}"  # type: ignore[union-attr]


def test_the_skewed_study_of_the_readme_is_planned_at_each_point_of_its_sweep_and_counted(tmp_path: Path) -> None:
    from wbc_simulations.experiment import plan_study, read_experiment
    from wbc_simulations.splits.counts import count_splits
    from wbc_simulations.sweep.cells import Filters, plan_cells

    (tmp_path / "skewed.toml").write_text(toml_block("skewed.toml"), encoding="utf-8")
    experiment = read_experiment(tmp_path / "skewed.toml")
    splits = count_splits(experiment, plan_study(experiment))
    assert [split.clinic for split in splits] == [*(f"virtual-{number}" for number in range(1, 6)), "far-away"]
    assert splits[1].flags == ("20% wrong labels",)
    assert splits[2].coarse[0] > 0
    cells = plan_cells(experiment, Filters(seeds=[0]), {})
    assert [cell.experiment.data.skew.label_alpha for cell in cells] == [0.5, 100.0]
