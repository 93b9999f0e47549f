"""Local training: a pure function of plan, clinic, round, model and cells."""

from typing import NamedTuple

import numpy as np
import pytest
import torch

from wbc_client.dataset.cell_set import CellSet
from wbc_client.training.local import learning_rate, train_locally
from wbc_client.training.round import changes
from wbc_common.models import build_model, model_arrays
from wbc_common.study import StudyConfig, TrainingSettings, parse_study
from wbc_common.wire import Arrays


def study(**tables: object) -> StudyConfig:
    values = {
        "name": "toy",
        "rounds": 4,
        "clinics": {"train": ["a"]},
        "images": {"size_px": 16},
        "training": {"local_epochs": 1, "batch_size": 4, "augmentation": "none"},
        "loss": {"guide_weight": 0.0, "alignment_weight": 0.0},
    }
    return parse_study({**values, **tables}, "toy")


def toy_cells(num: int = 12) -> CellSet:
    """Class 0 is dark, class 1 is bright: separable by one number."""
    labels = torch.arange(num) % 2
    images = (labels * 150 + 50).to(torch.uint8)[:, None, None, None].expand(num, 3, 16, 16).contiguous()
    allowed = torch.nn.functional.one_hot(labels, 5).bool()
    return CellSet(images, allowed, torch.arange(num), torch.zeros(num, dtype=torch.int64))


class Trained(NamedTuple):
    delta: Arrays
    losses: dict[str, float]


def train(plan: StudyConfig, *, clinic: str = "a", round_number: int = 1, num: int = 12) -> Trained:
    model = build_model(plan.model, plan.head_rows, seed=0)
    before = model_arrays(model)
    losses = train_locally(model, toy_cells(num), plan, clinic=clinic, round_number=round_number, sums=None)
    return Trained(changes(model, before), losses)


def equal(one: Trained, other: Trained) -> bool:
    return all(np.array_equal(one.delta[key], other.delta[key]) for key in one.delta)


def test_the_same_clinic_and_round_give_the_same_bits_and_others_do_not() -> None:
    plan = study(training={"local_epochs": 1, "batch_size": 4, "augmentation": "stain"})
    first = train(plan)
    assert equal(first, train(plan))
    assert not equal(first, train(plan, clinic="b"))
    assert not equal(first, train(plan, round_number=2))


def test_training_lowers_the_loss_on_cells_that_can_be_told_apart() -> None:
    short, long = study(), study(training={"local_epochs": 12, "batch_size": 4, "augmentation": "none"})
    assert train(long).losses["classification"] < 0.5 * train(short).losses["classification"]


def test_one_cell_is_enough() -> None:
    assert all(np.isfinite(value).all() for value in train(study(), num=1).delta.values())


def test_the_proximal_term_keeps_the_update_small() -> None:
    def norm(update: Trained) -> float:
        return float(sum(np.square(value).sum() for value in update.delta.values()))

    training = {"local_epochs": 3, "batch_size": 4, "augmentation": "none", "optimizer": "sgd", "weight_decay": 0.0}
    off = {"guide_weight": 0.0, "alignment_weight": 0.0}
    free = train(study(training={**training, "learning_rate": 0.01}, loss=off))
    held = train(study(training={**training, "learning_rate": 0.01}, loss={**off, "proximal_weight": 10.0}))
    assert norm(held) < norm(free)


@pytest.mark.parametrize(("round_number", "share"), [(1, 1.0), (3, 0.5), (4, 0.5 * (1 - 2**-0.5))])
def test_the_rate_falls_by_half_a_cosine(round_number: int, share: float) -> None:
    assert learning_rate(TrainingSettings(learning_rate=1.0), round_number, 4) == pytest.approx(share)


def test_a_constant_rate_stays() -> None:
    assert learning_rate(TrainingSettings(learning_rate=0.3, schedule="constant"), 9, 10) == 0.3


def trained(precision: str) -> Trained:
    training = {"local_epochs": 2, "batch_size": 4, "augmentation": "stain", "precision": precision}
    return train(study(training=training, model={"weights": "none"}))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_in_either_precision_the_same_seed_gives_the_same_bits(precision: str) -> None:
    one, other = trained(precision), trained(precision)
    assert {value.dtype for value in one.delta.values()} == {np.dtype(np.float32)}
    assert equal(one, other)


def test_bf16_is_near_fp32_and_not_the_same() -> None:
    fp32, bf16 = trained("fp32"), trained("bf16")
    assert bf16.losses["loss"] == pytest.approx(fp32.losses["loss"], rel=0.05)
    assert bf16.losses["loss"] != fp32.losses["loss"]
