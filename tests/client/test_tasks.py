"""Who may be asked what: only the approved plan, and a held-out clinic neither trains nor sums."""

from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from wbc_client import clinic
from wbc_client.clinic import Clinic, open_clinic
from wbc_client.evaluation.neighbours import predicted_classes
from wbc_client.evaluation.stain_averaging import predict_averaged
from wbc_client.tasks import perform
from wbc_client.training.local import train_locally
from wbc_common.confusion import confusion_matrix
from wbc_common.errors import MessageError, PolicyError
from wbc_common.models import build_model, model_arrays
from wbc_common.study import parse_study
from wbc_common.wire import Arrays, Evaluation, Reply, RoundReply, Task, TaskKind, Update
from wbc_server.run_folder import RunFolder


def clinic_of(run: RunFolder, name: str) -> Clinic:
    return open_clinic(Path(run.path) / "clinics" / f"{name}.toml")


def model_of(clinic: Clinic) -> Arrays:
    return model_arrays(build_model(clinic.study.model, clinic.study.head_rows, seed=0))


def update_of(reply: Reply) -> Update:
    assert isinstance(reply, RoundReply)
    return reply.update


@pytest.mark.parametrize("kind", ["train", "stain-sums"])
def test_a_held_out_clinic_refuses_to_train_or_to_contribute(finished_run: RunFolder, kind: TaskKind) -> None:
    west = clinic_of(finished_run, "west")
    with pytest.raises(PolicyError, match="held out"):
        perform(west, Task(kind, west.study.hash, 1, model_of(west)))


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_a_task_that_needs_a_model_and_has_none_is_refused(finished_run: RunFolder, kind: TaskKind) -> None:
    east = clinic_of(finished_run, "east")
    with pytest.raises(MessageError, match="without a model"):
        perform(east, Task(kind, east.study.hash, 1))


def test_no_more_draws_leave_than_the_plan_names(finished_run: RunFolder) -> None:
    west = clinic_of(finished_run, "west")
    reply = perform(west, Task("evaluate", west.study.hash, 1, model_of(west), split="all", replicates=10**6))
    assert isinstance(reply, Evaluation)
    assert len(reply.replicates) == west.study.evaluation.bootstrap_replicates


def test_only_the_finished_model_names_a_clinics_cells_together(finished_run: RunFolder) -> None:
    east = clinic_of(finished_run, "east")
    together = east.study.evaluation.model_copy(update={"together": True})
    east = replace(east, study=east.study.model_copy(update={"evaluation": together}))
    cells, task = east.cells, Task("evaluate", east.study.hash, 1, model_of(east), split="all")
    for is_final, draws in ((False, 0), (True, east.study.evaluation.stain_draws)):
        reply = perform(east, replace(task, averaged=is_final))
        seen = predict_averaged(
            east.model(model_of(east)), cells.images, east.device, draws=draws, precision=east.precision
        )
        expected = predicted_classes(*seen, together=is_final)[cells.exact].numpy()
        assert is_final == (not np.array_equal(expected, seen[0].argmax(dim=1)[cells.exact].numpy()))
        assert isinstance(reply, Evaluation)
        assert np.array_equal(reply.confusion, confusion_matrix(cells.labels[cells.exact].numpy(), expected, 5))


def a_round(clinic: Clinic, number: int, model: Arrays) -> RoundReply:
    reply = perform(clinic, Task("train", clinic.study.hash, number, model))
    assert isinstance(reply, RoundReply)
    return reply


def test_with_an_update_comes_how_the_received_model_does_and_the_untrained_one_is_not_measured(
    finished_run: RunFolder,
) -> None:
    east = clinic_of(finished_run, "east")
    model = model_of(east)
    assert a_round(east, 1, model).evaluation is None
    came = a_round(east, 2, model).evaluation
    asked = perform(east, Task("evaluate", east.study.hash, 1, model, split="val"))
    assert came is not None
    assert isinstance(asked, Evaluation)
    np.testing.assert_array_equal(came.confusion, asked.confusion)
    assert came.replicates.shape[0] == 0


def test_the_received_model_is_measured_with_the_bias_that_it_predicts_with(finished_run: RunFolder) -> None:
    east = clinic_of(finished_run, "east")
    bias = east.study.head_rows.repeated(np.array([0, 0, 0, 1e6, 0])).astype(np.float32)
    task = Task("train", east.study.hash, 2, model_of(east), prediction_bias=bias)
    reply = perform(east, task)
    assert isinstance(reply, RoundReply)
    assert reply.evaluation is not None
    assert reply.evaluation.confusion[:, 3].sum() == reply.evaluation.confusion.sum() > 0
    np.testing.assert_array_equal(
        reply.update.delta["head.bias"], a_round(east, 2, model_of(east)).update.delta["head.bias"]
    )


def test_an_update_is_after_minus_before_with_what_it_was_made_of(finished_run: RunFolder) -> None:
    east = clinic_of(finished_run, "east")
    received, cells = model_of(east), east.cells.part("train")
    update = update_of(perform(east, Task("train", east.study.hash, 1, received)))
    model = east.model(received)
    losses = train_locally(model, cells, east.study, clinic="east", round_number=1, sums=None)
    for key, value in model_arrays(model).items():
        np.testing.assert_array_equal(update.delta[key], value - received[key])
    np.testing.assert_array_equal(update.class_counts, cells.class_counts())
    assert (update.losses, update.num_cells, update.precision) == (losses, len(cells), east.precision)


def test_under_privacy_no_loss_leaves_and_the_spent_budget_does(finished_run: RunFolder, tmp_path: Path) -> None:
    east = clinic_of(finished_run, "east")
    changed = {"privacy": {"mode": "dp-sgd"}, "loss": {"alignment_weight": 0.0}, "training": {"precision": "bf16"}}
    study = parse_study({**east.study.model_dump(mode="json"), **changed}, "private")
    private = replace(east, study=study, site=east.site.model_copy(update={"state_dir": tmp_path}))
    update = update_of(perform(private, Task("train", study.hash, 1, model_of(private))))
    assert (update.losses, update.precision) == ({}, "fp32")
    assert update.epsilon is not None
    assert update.epsilon > 0


def test_stain_sums_leave_only_where_the_plan_pools_them(finished_run: RunFolder) -> None:
    east = clinic_of(finished_run, "east")
    with pytest.raises(PolicyError, match="pools no stain sums"):
        perform(east, Task("stain-sums", east.study.hash))


def test_opened_clinics_are_kept_up_to_a_number_of_bytes(
    finished_run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clinic, "_kept", OrderedDict())
    east = clinic_of(finished_run, "east")
    assert clinic_of(finished_run, "east") is east
    monkeypatch.setattr(clinic, "KEPT_BYTES", 1)  # the clinic asked for last is kept whatever its size
    north = clinic_of(finished_run, "north")
    assert clinic_of(finished_run, "north") is north
    assert clinic_of(finished_run, "east") is not east


def test_what_leaves_a_rehearsed_round_counts_own_cells_alone(finished_run: RunFolder) -> None:
    east = clinic_of(finished_run, "east")
    training = east.study.training.model_copy(update={"rehearsal": 1.0})
    rehearsing = replace(east, study=east.study.model_copy(update={"training": training}))
    task = Task("train", east.study.hash, 1, model_of(east))
    update, without = update_of(perform(rehearsing, task)), update_of(perform(east, task))
    assert update.num_cells == without.num_cells
    np.testing.assert_array_equal(update.class_counts, without.class_counts)
    assert any(not np.array_equal(update.delta[key], without.delta[key]) for key in update.delta)
