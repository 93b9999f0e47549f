"""The plan binds the coordinator: each way to ask for more than was agreed is refused."""

from dataclasses import replace

import numpy as np
import pytest

from wbc_client.agreement import check_task
from wbc_common.errors import PolicyError
from wbc_common.models import build_model, model_arrays
from wbc_common.study import parse_study
from wbc_common.wire import Arrays, CalibrationRequest, ClassSums, Task

STUDY = parse_study(
    {
        "name": "s",
        "rounds": 3,
        "clinics": {"train": ["a", "b", "d"], "held_out": ["c"]},
        "loss": {"alignment_weight": 0.1},
        "evaluation": {"bootstrap_replicates": 10},
    },
    "test",
)
FEATURES = 384


def arrays() -> Arrays:
    return model_arrays(build_model(STUDY.model, STUDY.head_rows, seed=1))


def totals(features: int = FEATURES, count: float = 1.0) -> ClassSums:
    return ClassSums(np.zeros((5, features)), np.full(5, count))


TASK = Task("train", STUDY.hash, 3, arrays(), totals())
MEASURING = Task("evaluate", STUDY.hash, 3, arrays(), split="test", replicates=10, averaged=True)
HELD_OUT = replace(MEASURING, split="all")
SHIFTED = STUDY.model_copy(update={"evaluation": STUDY.evaluation.model_copy(update={"prediction_prior": "training"})})
BIAS = np.zeros(13, np.float32)


def without(key: str) -> Arrays:
    return {name: value for name, value in arrays().items() if name != key}


def changed(value: np.ndarray) -> Arrays:
    return {**arrays(), "head.bias": value}


def test_what_the_plan_foresees_passes() -> None:
    check_task(TASK, STUDY, "a")
    check_task(MEASURING, STUDY, "a")
    check_task(replace(MEASURING, split="val", replicates=0), STUDY, "a")
    check_task(Task("evaluate", STUDY.hash, 1, arrays(), split="val"), STUDY, "a")
    check_task(HELD_OUT, STUDY, "c")
    check_task(Task("evaluate", STUDY.hash, 1, arrays(), split="all"), STUDY, "c")
    check_task(Task("describe", STUDY.hash), STUDY, "a")
    check_task(replace(TASK, study_hash=SHIFTED.hash, prediction_bias=BIAS), SHIFTED, "a")


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (replace(TASK, study_hash="f" * 64), "approved"),
        (replace(TASK, round_number=4), "round 4"),
        (replace(TASK, round_number=0), "round 0"),
        (replace(TASK, averaged=True), "beside an update"),
        (replace(MEASURING, replicates=11), "11 bootstrap draws"),
        (HELD_OUT, "'all' cells"),
        (replace(MEASURING, split="train"), "'train' cells"),
        (replace(MEASURING, round_number=2), "final figures in round 2"),
        (replace(MEASURING, split="val", averaged=False, round_number=2), "final figures in round 2"),
        (replace(MEASURING, split="val", replicates=0, averaged=False, round_number=0), "round 0"),
        (replace(TASK, model=without("head.bias")), "head.bias"),
        (replace(TASK, model={**arrays(), "more": np.zeros(1, np.float32)}), "more"),
        (replace(TASK, model=changed(np.zeros(6, np.float32))), "head.bias"),
        (replace(TASK, model=changed(np.zeros(13, np.float64))), "float64"),
        (replace(TASK, model=changed(np.full(13, np.nan, np.float32))), "not finite"),
        (replace(TASK, totals=totals(features=3)), "class sums of shape"),
        (replace(TASK, totals=totals(count=-1.0)), "below 0"),
        (replace(TASK, totals=totals(count=np.inf)), "not finite"),
        (replace(TASK, round_number=1), "class sums in round 1"),  # round 1 of 3 warms up
        (replace(TASK, replicates=1), "beside an update"),
        (replace(TASK, calibration=CalibrationRequest(1.0, np.full(5, 0.2))), "beside an update"),
        (replace(TASK, prediction_bias=BIAS), "predicts by balanced logits"),
    ],
)
def test_what_it_does_not_foresee_is_refused(task: Task, words: str) -> None:
    with pytest.raises(PolicyError, match=words):
        check_task(task, STUDY, "a")


@pytest.mark.parametrize("bias", [np.zeros(4, np.float32), np.zeros(5), np.full(5, np.inf, np.float32)])
def test_a_bias_of_another_form_is_refused(bias: np.ndarray) -> None:
    with pytest.raises(PolicyError, match="a bias to predict with"):
        check_task(replace(TASK, study_hash=SHIFTED.hash, prediction_bias=bias), SHIFTED, "a")


def test_a_plan_that_aligns_nobody_takes_no_class_sums() -> None:
    plain = STUDY.model_copy(update={"loss": STUDY.loss.model_copy(update={"alignment_weight": 0.0})})
    with pytest.raises(PolicyError, match="class sums in round 3"):
        check_task(replace(TASK, study_hash=plain.hash), plain, "a")
