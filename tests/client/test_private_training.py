"""DP-SGD at a clinic: each cell's gradient is bounded, noise is there and secret, only what is covered leaves."""

import numpy as np
import pytest
import torch

from wbc_client.dataset.cell_set import CellSet
from wbc_client.state.privacy_budget import Spending
from wbc_client.training import private as private_training
from wbc_client.training.private import train_privately
from wbc_client.training.round import changes
from wbc_common.models import HEAD_KEYS, build_model, model_arrays
from wbc_common.study import StudyConfig, parse_study
from wbc_common.wire import Arrays


def plan(**tables: object) -> StudyConfig:
    values = {
        "name": "toy",
        "rounds": 4,
        "clinics": {"train": ["a", "b"]},
        "images": {"size_px": 16},
        "training": {
            "batch_size": 4,
            "augmentation": "none",
            "optimizer": "sgd",
            "learning_rate": 1.0,
            "weight_decay": 0.0,
        },
        "loss": {"alignment_weight": 0.0},
        "privacy": {"mode": "dp-sgd", "clip_norm": 0.1},
    }
    return parse_study({**values, **tables}, "toy")


def cells(num: int = 12) -> CellSet:
    labels = torch.arange(num) % 2
    images = (labels * 150 + 50).to(torch.uint8)[:, None, None, None].expand(num, 3, 16, 16).contiguous()
    allowed = torch.nn.functional.one_hot(labels, 5).bool()
    return CellSet(images, allowed, torch.arange(num), torch.zeros(num, dtype=torch.int64))


def train(study: StudyConfig, spending: Spending, num: int = 12, round_number: int = 1) -> Arrays:
    model = build_model(study.model, study.head_rows, seed=0)
    before = model_arrays(model)
    train_privately(model, cells(num), study, round_number=round_number, spending=spending)
    return changes(model, before)


def norm(delta: Arrays) -> float:
    return float(np.sqrt(sum(np.square(value.astype(np.float64)).sum() for value in delta.values())))


def test_without_noise_one_step_moves_by_at_most_the_clipped_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    # 12 gradients of norm 0.1 at most, over an expected batch of 12: the step is at most 0.1 long, and as the gradients
    # here are far longer than that, one cell alone gives exactly 0.1.
    assert norm(train(plan(), Spending(0.0, 1.0, 1))) <= 0.1 + 1e-6
    assert norm(train(plan(), Spending(0.0, 1.0, 1), num=1)) == pytest.approx(0.1, rel=1e-3)


def test_noise_has_the_deviation_that_the_accountant_is_told() -> None:
    quiet, loud = train(plan(), Spending(0.0, 1.0, 1)), train(plan(), Spending(50.0, 1.0, 1))
    noise = np.concatenate([(loud[key] - quiet[key]).ravel() for key in quiet])
    assert float(noise.std()) == pytest.approx(50.0 * 0.1 / 12, rel=0.02)


def test_two_trainings_of_the_same_round_differ_so_that_no_one_can_take_the_noise_off() -> None:
    one, other = (train(plan(), Spending(1.0, 0.5, 2)) for _ in range(2))
    assert not np.array_equal(one["head.weight"], other["head.weight"])


def test_a_step_without_a_drawn_cell_still_adds_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = torch.zeros(0, dtype=torch.int64)
    monkeypatch.setattr(private_training, "_poisson_batches", lambda num_cells, spending: iter([empty]))
    assert norm(train(plan(), Spending(1.0, 0.1, 1))) > 0


def test_cells_are_drawn_each_with_the_sampling_rate() -> None:
    drawn = [len(index) for index in private_training._poisson_batches(1000, Spending(1.0, 0.1, 200))]
    assert np.mean(drawn) == pytest.approx(100, abs=4)  # deviation of the mean: 0.67
    assert np.var(drawn) == pytest.approx(90, rel=0.5)  # binomial, not a fixed batch


def test_a_head_only_round_under_privacy_sends_head_rows() -> None:
    study = plan(
        training={"batch_size": 4, "augmentation": "none", "head_only_rounds": 1},
    )
    delta = train(study, Spending(1.0, 0.5, 2), round_number=4)
    assert set(delta) == set(HEAD_KEYS)
    assert norm(delta) > 0
