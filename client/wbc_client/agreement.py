"""Whether a task is one that the approved plan foresees: the plan binds the coordinator.

What a coordinator chooses freely is the model's values. Kind, round, the split that this clinic's role has measured,
number of bootstrap draws, when calibration counts are due, and names, shapes and types of the arrays follow from the
plan; anything else is refused before a cell is looked at. Local epochs, losses and rates are never in a message: the
clinic reads them from its own copy of the plan. How often a task is sent is not bound: one that got lost is sent again.
"""

from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from wbc_common.errors import PolicyError
from wbc_common.head_rows import HeadRows
from wbc_common.models import build_model, model_arrays
from wbc_common.study import ModelSettings, Role, StudyConfig
from wbc_common.wire import CalibrationRequest, Task

Form = Mapping[str, tuple[tuple[int, ...], np.dtype[np.generic]]]


def check_task(task: Task, study: StudyConfig, clinic: str) -> None:
    """Refuse a task that the plan does not foresee for this clinic.

    Raises:
        PolicyError: another plan, a round past its end, cells that this clinic's role has not measured, final figures
            before the end, more draws than agreed, other arrays than its model's.
    """
    if task.study_hash != study.hash:
        raise PolicyError(
            f"the coordinator works by plan {task.study_hash[:12]}, this clinic approved {study.hash[:12]}",
            remedy="compare both study.toml files; approve the new plan, or have the coordinator return to the old one",
        )
    if task.round_number > study.rounds:
        raise _outside(f"round {task.round_number}", f"rounds up to {study.rounds}")
    if task.kind in ("train", "evaluate") and task.round_number < 1:
        raise _outside(f"round {task.round_number}", "rounds from 1")
    if task.kind == "evaluate":
        _check_measuring(task, study, study.role(clinic))
    if task.replicates > study.evaluation.bootstrap_replicates:
        raise _outside(f"{task.replicates} bootstrap draws", f"up to {study.evaluation.bootstrap_replicates}")
    form = model_form(study.model, study.head_rows)
    if task.model is not None:
        _check_model(task.model, form)
    if task.stain is not None and study.training.augmentation != "federated-stain":
        raise _outside("pooled stains", "none")
    if task.calibration is not None:
        _check_calibration(task.calibration, len(study.classes))
    if task.totals is not None:
        if not study.shares_sums(task.round_number - 1):
            raise _outside(f"class sums in round {task.round_number}", "none in that round")
        _check_totals(task, classes=len(study.classes), features=form["head.weight"][0][1])
    if task.prediction_bias is not None:
        _check_bias(task.prediction_bias, study, form)
    if task.kind == "train" and (task.replicates or task.calibration is not None or task.averaged):
        raise _outside("bootstrap draws or calibration counts beside an update", "plain counts of the received model")


def _check_measuring(task: Task, study: StudyConfig, role: Role) -> None:
    """A training clinic's training cells are never measured: DP-SGD's budget would not cover their counts."""
    splits = ("val", "test") if role == "train" else ("all",)
    if task.split not in splits:
        raise _outside(f"a measurement of '{task.split}' cells", f"{' or '.join(splits)} at a clinic with this role")
    is_final = task.split == "test" or task.replicates > 0 or task.calibration is not None or task.averaged
    if is_final and task.round_number != study.rounds:
        raise _outside(f"final figures in round {task.round_number}", f"those after round {study.rounds} alone")


@lru_cache(maxsize=8)
def model_form(model: ModelSettings, rows: HeadRows) -> Form:
    """Names, shapes and types of the arrays of a plan's model."""
    arrays = model_arrays(build_model(model, rows, seed=0))
    return {name: (value.shape, value.dtype) for name, value in arrays.items()}


def _check_model(arrays: Mapping[str, np.ndarray], form: Form) -> None:
    if arrays.keys() != form.keys():
        odd = sorted(arrays.keys() ^ form.keys())
        raise _outside(f"a model that differs in the arrays {', '.join(odd[:5])}", "the arrays of its model")
    for name, value in arrays.items():
        if (value.shape, value.dtype) != form[name]:
            raise _outside(f"array {name} of {value.dtype} {value.shape}", f"{form[name][1]} {form[name][0]}")
        if not np.isfinite(value).all():
            raise _outside(f"array {name} with numbers that are not finite", "finite numbers")


def _check_totals(task: Task, *, classes: int, features: int) -> None:
    totals = task.totals
    assert totals is not None
    if totals.sums.shape != (classes, features) or totals.counts.shape != (classes,):
        raise _outside(f"class sums of shape {totals.sums.shape}", f"{(classes, features)}")
    if not np.isfinite(totals.sums).all() or not np.isfinite(totals.counts).all() or (totals.counts < 0).any():
        raise _outside("class sums that are not finite or counts below 0", "sums and counts of cells")


def _check_bias(bias: np.ndarray, study: StudyConfig, form: Form) -> None:
    if study.evaluation.prediction_prior == "balanced":
        raise _outside("a bias to predict with", "none: it predicts by balanced logits")
    if (bias.shape, bias.dtype) != form["head.bias"] or not np.isfinite(bias).all():
        raise _outside(f"a bias to predict with of {bias.dtype} {bias.shape}", f"finite {form['head.bias']}")


def _check_calibration(wish: CalibrationRequest, num_classes: int) -> None:
    prior = wish.source_prior
    if not np.isfinite(wish.temperature) or wish.temperature <= 0:
        raise _outside(f"calibration at temperature {wish.temperature}", "a positive one")
    if prior.shape != (num_classes,) or not np.isfinite(prior).all() or (prior < 0).any():
        raise _outside(f"a case mix of shape {prior.shape}", f"{num_classes} shares")


def _outside(got: str, expected: str) -> PolicyError:
    return PolicyError(
        f"the coordinator asks with {got}; the approved plan has {expected}",
        remedy="ask the coordinator why; nothing was computed and nothing has left",
    )
