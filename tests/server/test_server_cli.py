"""`wbc-server plan` and `report`, as a coordinator types them."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from wbc_common.study import parse_study, write_study
from wbc_common.terminal import run_command
from wbc_server.cli import app
from wbc_server.run_folder import RunFolder

STUDY = parse_study({"name": "typed", "clinics": {"train": ["east", "north"], "held_out": ["west"]}}, "test")


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    write_study(STUDY, tmp_path / "study.toml")
    return tmp_path / "study.toml"


def exit_of(*arguments: str) -> int:
    """The exit code of the command as a shell sees it."""
    with pytest.raises(SystemExit) as left:
        run_command(lambda: app(list(arguments), standalone_mode=False))
    assert isinstance(left.value.code, int)
    return left.value.code


def test_plan_shows_who_takes_part_and_the_hash(plan_file: Path) -> None:
    shown = CliRunner().invoke(app, ["plan", str(plan_file)])
    assert shown.exit_code == 0
    assert f"plan hash: {STUDY.hash}" in shown.output
    assert "training clinics: east, north" in shown.output
    assert "held-out clinics: west" in shown.output


def test_plan_as_json_holds_the_whole_plan(plan_file: Path) -> None:
    shown = json.loads(CliRunner().invoke(app, ["plan", str(plan_file), "--json"]).output)
    assert shown["hash"] == STUDY.hash
    assert parse_study(shown["plan"], "printed") == STUDY


def test_plan_says_what_a_reader_must_know_of_its_settings(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text('name = "k"\n[clinics]\ntrain = ["a", "b", "c"]\n[aggregation]\nrobust = "krum"\n')
    assert (
        "caution: aggregation.robust = 'krum' is an order statistic"
        in CliRunner().invoke(app, ["plan", str(path)]).output
    )
    assert json.loads(CliRunner().invoke(app, ["plan", str(path), "--json"]).output)["cautions"]


def test_a_plan_with_a_misspelt_setting_names_it_and_exits_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "study.toml"
    path.write_text('name = "typed"\nround = 3\n[clinics]\ntrain = ["east"]\n')
    assert exit_of("plan", str(path)) == 2
    assert "unknown setting 'round' (did you mean 'rounds'?)" in capsys.readouterr().err


def test_a_report_written_again_has_the_same_bytes(finished_run: RunFolder, tmp_path: Path) -> None:
    copy = RunFolder(tmp_path / "copy")
    shutil.copytree(finished_run.path, copy.path)
    copy.report.unlink()
    shown = CliRunner().invoke(app, ["report", str(copy.path)])
    assert shown.exit_code == 0, shown.output
    assert shown.output.strip() == str(copy.report)
    assert copy.report.read_bytes() == finished_run.report.read_bytes()


def test_a_folder_without_a_run_exits_3_with_a_next_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_of("report", str(tmp_path / "nothing")) == 3
    assert "next step" in capsys.readouterr().err
