"""Error feedback: over the rounds nothing is lost but the last rest, and a round asked again sends the same bytes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from wbc_client.clinic import Clinic, open_clinic
from wbc_client.state.error_feedback import compensate
from wbc_client.state.round_memory import FOLDER_NAME
from wbc_client.tasks import perform
from wbc_common.models import build_model, model_arrays
from wbc_common.study import parse_study
from wbc_common.wire import Arrays, RoundReply, Task, Update, as_received
from wbc_server.run_folder import RunFolder

ROUNDS = 6


@pytest.fixture
def east(finished_run: RunFolder, tmp_path: Path) -> Clinic:
    return a_clinic(finished_run, tmp_path, "int8")


def a_clinic(run: RunFolder, state: Path, precision: str) -> Clinic:
    """A clinic of the finished run with a state folder of its own and a plan that sends in this precision."""
    found = open_clinic(Path(run.path) / "clinics" / "east.toml")
    values = found.study.model_dump(mode="json")
    study = parse_study({**values, "rounds": ROUNDS, "transport": {"update_precision": precision}}, "test")
    return replace(found, study=study, site=found.site.model_copy(update={"state_dir": state}))


def an_update(seed: int, size: float = 1e-3) -> Update:
    generator = np.random.default_rng(seed)
    delta = {
        "stem.weight": generator.normal(0, size, (4, 3, 3, 3)).astype(np.float32),
        "head.bias": generator.normal(0, size, 5).astype(np.float32),
    }
    return Update(delta, np.ones(5), {"loss": 1.0}, num_cells=5, seconds=0.0)


def received(update: Update) -> Arrays:
    return as_received(update.delta, update.sent_as)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_what_was_sent_adds_up_to_what_was_learnt_within_the_last_rest(
    finished_run: RunFolder, tmp_path: Path, precision: str
) -> None:
    clinic = a_clinic(finished_run, tmp_path, precision)
    sent = [received(compensate(clinic, an_update(number), number)) for number in range(1, ROUNDS + 1)]
    for key in an_update(1).delta:
        exact = sum(an_update(number).delta[key].astype(np.float64) for number in range(1, ROUNDS + 1))
        total = sum(one[key].astype(np.float64) for one in sent)
        last = np.abs(sent[-1][key]).max()
        level = {"fp16": last * 2**-11, "int8": last / 127 / 2}[precision]
        assert np.abs(total - exact).max() <= level * 1.01 + 1e-9
        alone = sum(as_received(an_update(number).delta, precision)[key] for number in range(1, ROUNDS + 1))  # type: ignore[arg-type]
        assert np.abs(total - exact).mean() < np.abs(alone - exact).mean()  # without feedback errors pile up


def test_a_change_too_small_for_a_level_leaves_in_a_later_round(east: Clinic) -> None:
    # Largest change 127, so a level is 1: 0.4 a round is level 0, then 0.8 level 1, and 0.2 is owed back.
    delta = {"head.bias": np.array([127.0, 0.4], np.float32)}
    update = replace(an_update(0), delta=delta)
    sent = [received(compensate(east, update, number))["head.bias"][1] for number in (1, 2, 3, 4)]
    assert sent == pytest.approx([0.0, 1.0, 0.0, 1.0])


def test_fp32_is_sent_as_it_is_and_keeps_nothing(finished_run: RunFolder, tmp_path: Path) -> None:
    update = an_update(1)
    assert compensate(a_clinic(finished_run, tmp_path, "fp32"), update, 1) is update
    assert not (tmp_path / FOLDER_NAME).exists()


def test_a_round_asked_again_sends_the_same_bytes_whatever_came_of_its_first_asking(east: Clinic) -> None:
    compensate(east, an_update(1), 1)
    first = compensate(east, an_update(2), 2)
    again = compensate(east, an_update(2), 2)
    assert all(again.delta[key].tobytes() == value.tobytes() for key, value in first.delta.items())


def test_a_clinic_that_missed_a_round_still_sends_what_it_owes(east: Clinic) -> None:
    first = compensate(east, an_update(1), 1)
    third = compensate(east, an_update(3), 3)
    owed = {key: value - received(first)[key] for key, value in first.delta.items()}
    for key, value in an_update(3).delta.items():
        np.testing.assert_array_equal(third.delta[key], value + owed[key])


def test_what_another_plan_owes_is_not_added(east: Clinic) -> None:
    compensate(east, an_update(1), 1)
    other = replace(east, study=east.study.model_copy(update={"seed": 99}))
    np.testing.assert_array_equal(
        compensate(other, an_update(2), 2).delta["head.bias"], an_update(2).delta["head.bias"]
    )


def test_a_backbone_that_is_not_sent_any_more_owes_nothing(east: Clinic) -> None:
    compensate(east, an_update(1), 1)
    head = {"head.bias": an_update(2).delta["head.bias"]}
    assert list(compensate(east, replace(an_update(2), delta=head), 2).delta) == ["head.bias"]


@pytest.mark.filterwarnings("error")
def test_an_update_that_is_not_finite_spoils_no_later_one(east: Clinic) -> None:
    compensate(east, an_update(1), 1)
    broken = an_update(2)
    broken.delta["head.bias"][0] = np.nan
    assert np.isnan(compensate(east, broken, 2).delta["head.bias"][0])
    assert all(np.isfinite(value).all() for value in compensate(east, an_update(3), 3).delta.values())


def test_training_sends_in_the_precision_of_the_plan(east: Clinic) -> None:
    model = model_arrays(build_model(east.study.model, east.study.head_rows, seed=0))
    reply = perform(east, Task("train", east.study.hash, 1, model))
    assert isinstance(reply, RoundReply)
    assert reply.update.sent_as == "int8"
    assert (east.site.state_dir / FOLDER_NAME / "update-rest-0001.safetensors").exists()
