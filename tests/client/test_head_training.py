"""Balanced head-only rounds: the backbone stays, batches are balanced, only head rows leave."""

import numpy as np
import torch

from wbc_client.dataset.cell_set import CellSet
from wbc_client.training.head_only import balanced_draw, train_head
from wbc_client.training.round import changes
from wbc_common.models import HEAD_KEYS, build_model, model_arrays
from wbc_common.study import StudyConfig, parse_study
from wbc_common.weights import load_initial_weights


def plan(**training: object) -> StudyConfig:
    values = {
        "name": "toy",
        "rounds": 4,
        "clinics": {"train": ["a", "b"]},
        "images": {"size_px": 16},
        "model": {"fine_classes": False},
        "training": {"local_epochs": 2, "batch_size": 8, "head_only_rounds": 2, **training},
    }
    return parse_study(values, "toy")


def cells(labels: list[int]) -> CellSet:
    classes = torch.tensor(labels)
    images = (classes * 50 + 50).to(torch.uint8)[:, None, None, None].expand(len(labels), 3, 16, 16).contiguous()
    allowed = torch.nn.functional.one_hot(classes, 5).bool()
    return CellSet(images, allowed, torch.arange(len(labels)), torch.zeros(len(labels), dtype=torch.int64))


def test_only_head_rows_leave_and_the_backbone_keeps_its_bits() -> None:
    model = build_model(plan().model, plan().head_rows, seed=0)
    before = model_arrays(model)
    train_head(model, cells([0] * 20 + [1] * 4), plan(), clinic="a", round_number=3)
    delta = changes(model, before)
    assert set(delta) == set(HEAD_KEYS)
    for key, value in model_arrays(model).items():
        if key in HEAD_KEYS:
            np.testing.assert_array_equal(delta[key], value - before[key])
            assert np.abs(delta[key]).max() > 0
        else:
            np.testing.assert_array_equal(value, before[key])


def trained_head(found: CellSet, **training: object) -> np.ndarray:
    model = build_model(plan().model, plan().head_rows, seed=0)
    load_initial_weights(model, plan().model, plan().images)
    train_head(model, found, plan(**training), clinic="a", round_number=3)
    return model_arrays(model)["head.weight"]


def test_the_same_round_gives_the_same_bits() -> None:
    np.testing.assert_array_equal(*(trained_head(cells([0, 0, 1])) for _ in range(2)))


def test_the_plan_says_what_features_are_computed_in() -> None:
    fp32, bf16 = (trained_head(cells([0, 1] * 6), precision=precision) for precision in ("fp32", "bf16"))
    assert not np.array_equal(fp32, bf16)
    np.testing.assert_allclose(bf16, fp32, atol=2e-3)


def test_the_rate_starts_anew_in_the_head_only_rounds() -> None:
    """With one round of both kinds left, the whole study's cosine would leave almost nothing of the rate."""
    found = cells([0, 1] * 6)
    np.testing.assert_array_equal(trained_head(found), trained_head(found, schedule="constant"))


def test_each_class_present_is_drawn_as_often_as_any_other() -> None:
    found = cells([0] * 2700 + [1] * 270 + [3] * 30)
    drawn = found.labels[balanced_draw(found, torch.Generator().manual_seed(1))]
    counts = torch.bincount(drawn, minlength=5)
    assert counts[[2, 4]].tolist() == [0, 0]
    # 3000 draws with probability 1/3 each: a deviation of 26 cells; five of them are allowed.
    assert bool(((counts[[0, 1, 3]] - 1000).abs() < 130).all())


def test_a_coarse_cell_is_drawn_by_its_shares() -> None:
    found = cells([0, 0, 1])
    found.allowed[2] = torch.tensor([True, True, False, False, False])
    # Counts: 2.5 of class 0 and 0.5 of class 1; weights 1/2.5 twice, and 0.5/2.5 + 0.5/0.5 for the coarse cell.
    draws = torch.cat([balanced_draw(found, torch.Generator().manual_seed(seed)) for seed in range(1000)])
    assert abs(float((draws == 2).double().mean()) - 1.2 / 2) < 0.05
