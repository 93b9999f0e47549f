"""A clinic's consent: nothing runs under a plan that it has not signed."""

import json
from pathlib import Path

import pytest
import tomli_w
from typer.testing import CliRunner

from wbc_client.cli import app
from wbc_client.node.approval import approve_plan, check_approved, plain_words
from wbc_client.node.setup import make_clinic
from wbc_client.site import Site, read_site
from wbc_common.errors import PolicyError, SettingError
from wbc_common.study import parse_study, write_study

PLAN = {"name": "s", "rounds": 4, "clinics": {"train": ["munich", "vienna"], "held_out": ["berlin"]}}


def clinic(folder: Path, name: str = "munich") -> Site:
    made = make_clinic(folder, name, "localhost:1")
    write_study(parse_study(PLAN, "test"), folder / "study.toml")
    return read_site(made.clinic_file)


def test_a_plan_runs_once_it_is_approved_and_no_longer_once_it_changes(tmp_path: Path) -> None:
    site = clinic(tmp_path)
    with pytest.raises(PolicyError, match="none is approved"):
        check_approved(site)
    assert approve_plan(site, site.read_study()) == site.read_study().hash
    check_approved(site)
    write_study(parse_study({**PLAN, "rounds": 5}, "test"), tmp_path / "study.toml")
    with pytest.raises(PolicyError, match="not approved"):
        check_approved(site)


def test_what_is_signed_is_what_was_shown(tmp_path: Path) -> None:
    site = clinic(tmp_path)
    shown = site.read_study()
    write_study(parse_study({**PLAN, "rounds": 5}, "test"), tmp_path / "study.toml")  # while the person reads
    assert approve_plan(site, shown) == shown.hash
    with pytest.raises(PolicyError, match="not approved"):
        check_approved(site)


def test_an_approval_that_nobody_signed_does_not_count(tmp_path: Path) -> None:
    site = clinic(tmp_path)
    approve_plan(site, site.read_study())
    path = site.state_dir / "approved.json"
    forged = json.loads(path.read_text()) | {"signature": "AAAA"}
    path.write_text(json.dumps(forged))
    with pytest.raises(PolicyError, match="not signed"):
        check_approved(site)


def test_the_plan_in_plain_words_says_what_runs_and_what_leaves(tmp_path: Path) -> None:
    site = clinic(tmp_path)
    trains = "\n".join(plain_words(site, site.read_study()))
    assert "trains 2 epochs in each of up to 4 rounds" in trains
    assert "model updates (fp32)" in trains
    assert "sums of features" not in trains  # nothing aligns and nothing pools stains under this plan
    held_out = site.model_copy(update={"clinic": "berlin"})
    measures = "\n".join(plain_words(held_out, site.read_study()))
    assert "never trains" in measures
    assert "model updates" not in measures
    write_study(
        parse_study(
            {
                **PLAN,
                "clinics": {"train": [*PLAN["clinics"]["train"], "ulm"], "held_out": PLAN["clinics"]["held_out"]},
                "loss": {"alignment_weight": 0.1},
                "training": {"augmentation": "federated-stain"},
                "transport": {"update_precision": "int8"},
            },
            "test",
        ),
        tmp_path / "study.toml",
    )
    shares = "\n".join(plain_words(site, site.read_study()))
    assert "model updates (int8)" in shares
    assert "sums of features by class, sums of stain statistics" in shares
    assert "own head" not in shares
    assert "sums of features" not in "\n".join(plain_words(held_out, site.read_study()))


def test_approve_asks_and_a_no_is_exit_code_5(tmp_path: Path) -> None:
    site = clinic(tmp_path)
    no = CliRunner().invoke(app, ["approve", str(tmp_path / "clinic.toml")], input="n\n")
    assert isinstance(no.exception, PolicyError)
    assert no.exception.exit_code == 5
    assert CliRunner().invoke(app, ["approve", str(tmp_path / "clinic.toml"), "--json"], input="y\n").exit_code == 0
    check_approved(site)


def test_start_refuses_before_approval_without_a_connection_attempt(tmp_path: Path) -> None:
    clinic(tmp_path)
    refused = CliRunner().invoke(app, ["start", str(tmp_path / "clinic.toml")])
    assert isinstance(refused.exception, PolicyError)


def test_init_prints_the_public_key_and_keeps_a_clinic_file_that_exists(tmp_path: Path) -> None:
    (tmp_path / "clinic.toml").write_text("# mine\n")
    done = CliRunner().invoke(app, ["init", "--clinic", "munich", "--folder", str(tmp_path)])
    assert "ecdsa-sha2-nistp384" in done.output
    assert "PRIVATE" not in done.output
    assert (tmp_path / "clinic.toml").read_text() == "# mine\n"
    with pytest.raises(SettingError, match="no clinic name"):
        make_clinic(tmp_path / "other", "über clinic", "localhost:1")


def test_a_clinic_file_without_a_coordinator_cannot_be_started(tmp_path: Path) -> None:
    values = {"clinic": "munich", "study": "study.toml", "data": {"kind": "packed", "path": "cells"}}
    (tmp_path / "clinic.toml").write_bytes(tomli_w.dumps(values).encode())
    with pytest.raises(SettingError, match="names no coordinator"):
        read_site(tmp_path / "clinic.toml").node()
