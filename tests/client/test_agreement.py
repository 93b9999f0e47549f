"""The plan binds the coordinator: each way to ask for more than was agreed is refused."""

from dataclasses import replace

import numpy as np
import pytest

from wbc_client.agreement import check_task
from wbc_common.errors import PolicyError
from wbc_common.models import build_model, model_arrays
from wbc_common.study import parse_study
from wbc_common.wire import Arrays, ClassSums, Task

STUDY = parse_study(
    {"name": "s", "rounds": 3, "clinics": {"train": ["a", "b"]}, "evaluation": {"bootstrap_replicates": 10}}, "test"
)
FEATURES = 384


def arrays() -> Arrays:
    return model_arrays(build_model(STUDY.model, len(STUDY.classes), seed=1))


def totals(features: int = FEATURES, count: float = 1.0) -> ClassSums:
    return ClassSums(np.zeros((5, features)), np.full(5, count))


TASK = Task("train", STUDY.hash, 3, arrays(), totals(), replicates=10)


def without(key: str) -> Arrays:
    return {name: value for name, value in arrays().items() if name != key}


def changed(value: np.ndarray) -> Arrays:
    return {**arrays(), "head.bias": value}


def test_what_the_plan_foresees_passes() -> None:
    check_task(TASK, STUDY)
    check_task(Task("describe", STUDY.hash), STUDY)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (replace(TASK, study_hash="f" * 64), "approved"),
        (replace(TASK, round_number=4), "round 4"),
        (replace(TASK, replicates=11), "11 bootstrap draws"),
        (replace(TASK, model=without("head.bias")), "head.bias"),
        (replace(TASK, model={**arrays(), "more": np.zeros(1, np.float32)}), "more"),
        (replace(TASK, model=changed(np.zeros(6, np.float32))), "head.bias"),
        (replace(TASK, model=changed(np.zeros(5, np.float64))), "float64"),
        (replace(TASK, model=changed(np.full(5, np.nan, np.float32))), "not finite"),
        (replace(TASK, totals=totals(features=3)), "class sums of shape"),
        (replace(TASK, totals=totals(count=-1.0)), "below 0"),
        (replace(TASK, totals=totals(count=np.inf)), "not finite"),
    ],
)
def test_what_it_does_not_foresee_is_refused(task: Task, words: str) -> None:
    with pytest.raises(PolicyError, match=words):
        check_task(task, STUDY)
