"""Who may connect: the register's rules, by hand."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from wbc_common.errors import DataError, SettingError
from wbc_common.keys import make_key
from wbc_common.study import StudyConfig, parse_study
from wbc_server.cli import app
from wbc_server.link.register import Register, read_register, write_register

STUDY: StudyConfig = parse_study(
    {"name": "s", "rounds": 1, "clinics": {"train": ["munich", "vienna"], "held_out": ["berlin"]}}, "test"
)


def key(folder: Path, name: str) -> str:
    return make_key(folder / name, name)


def test_an_enrolled_clinic_has_its_role_of_the_plan(tmp_path: Path) -> None:
    register = Register().enrol(STUDY, "berlin", key(tmp_path, "a"), None, replace=False)
    assert register.active()["berlin"].role == "held-out"


def test_a_clinic_the_plan_does_not_name_or_names_in_another_role_is_refused(tmp_path: Path) -> None:
    line = key(tmp_path, "a")
    with pytest.raises(SettingError, match="not part of study"):
        Register().enrol(STUDY, "paris", line, None, replace=False)
    with pytest.raises(SettingError, match="held-out"):
        Register().enrol(STUDY, "berlin", line, "train", replace=False)


def test_one_key_is_one_clinic_for_ever(tmp_path: Path) -> None:
    line = key(tmp_path, "a")
    register = Register().enrol(STUDY, "munich", line, None, replace=False)
    with pytest.raises(SettingError, match="enrolled already"):
        register.enrol(STUDY, "vienna", line, None, replace=False)
    with pytest.raises(SettingError, match="enrolled already"):
        register.revoke("munich").enrol(STUDY, "munich", line, None, replace=False)


def test_a_second_key_takes_the_place_of_the_first_only_when_asked(tmp_path: Path) -> None:
    register = Register().enrol(STUDY, "munich", key(tmp_path, "a"), None, replace=False)
    second = key(tmp_path, "b")
    with pytest.raises(SettingError, match="is enrolled with key"):
        register.enrol(STUDY, "munich", second, None, replace=False)
    replaced = register.enrol(STUDY, "munich", second, None, replace=True)
    assert replaced.active()["munich"].key == second
    assert [entry.is_active for entry in replaced.enrolments] == [False, True]


def test_a_revoked_clinic_stays_in_the_register_as_evidence(tmp_path: Path) -> None:
    register = Register().enrol(STUDY, "munich", key(tmp_path, "a"), None, replace=False).revoke("munich")
    assert register.active() == {}
    assert register.enrolments[0].revoked is not None
    with pytest.raises(SettingError, match="no key that counts"):
        register.revoke("munich")


def test_a_register_is_read_as_it_was_written_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    register = Register().enrol(STUDY, "munich", key(tmp_path, "a"), None, replace=False).with_node("x", 1)
    write_register(tmp_path / "clinics.json", register)
    assert read_register(tmp_path / "clinics.json") == register
    (tmp_path / "clinics.json").write_text('{"enrolments": [{"clinic": "munich"}]}')
    with pytest.raises(DataError, match="damaged"):
        read_register(tmp_path / "clinics.json")


def test_the_commands_enrol_list_and_revoke(tmp_path: Path) -> None:
    run, folder = CliRunner(), str(tmp_path / "study")
    assert run.invoke(app, ["init", folder, "--host", "localhost"]).exit_code == 0
    key(tmp_path, "munich.key")
    enrolled = run.invoke(app, ["enrol", folder, "--clinic", "munich", "--key", str(tmp_path / "munich.key.pub")])
    assert "SHA256:" in enrolled.output
    listed = run.invoke(app, ["list", folder])
    assert "no key yet" in listed.output
    assert run.invoke(app, ["revoke", folder, "--clinic", "munich"]).exit_code == 0
    assert "revoked" in run.invoke(app, ["list", folder]).output
    assert (tmp_path / "study" / "private").stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "study" / "private").glob("*.key"))


def test_a_start_before_everyone_is_enrolled_names_who_is_not(tmp_path: Path) -> None:
    run, folder = CliRunner(), str(tmp_path / "study")
    run.invoke(app, ["init", folder, "--host", "localhost"])
    refused = run.invoke(app, ["start", folder])
    assert isinstance(refused.exception, SettingError)
    assert "berlin, munich, vienna, zurich" in refused.exception.problem
