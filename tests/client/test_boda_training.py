"""Centralised BoDA: prototypes by a plain loop, and the published loss is what trains."""

import numpy as np
import pytest
import torch

from wbc_client.dataset.cell_set import CellSet
from wbc_client.training.boda import prototypes, train_boda
from wbc_common.errors import DataError
from wbc_common.models import build_model, model_arrays
from wbc_common.study import StudyConfig, parse_study
from wbc_common.wire import Arrays


def plan(weight: float = 0.5, precision: str = "fp32") -> StudyConfig:
    values = {
        "name": "toy",
        "clinics": {"train": ["pooled"]},
        "images": {"size_px": 16},
        "model": {"weights": "none"},
        "training": {"local_epochs": 2, "batch_size": 8, "augmentation": "none", "precision": precision},
        "loss": {"alignment": "boda-paper", "alignment_weight": weight, "alignment_warmup": 0.0},
    }
    return parse_study(values, "toy")


def cells(num: int = 24, *, domains: bool = True) -> CellSet:
    labels = torch.arange(num) % 2
    domain = torch.arange(num) // 2 % 3
    images = (labels * 120 + domain * 40 + 20).to(torch.uint8)[:, None, None, None].expand(num, 3, 16, 16).contiguous()
    allowed = torch.nn.functional.one_hot(labels, 5).bool()
    return CellSet(images, allowed, torch.arange(num), torch.zeros(num).long(), domain if domains else None)


def test_prototypes_are_the_means_of_each_domain_and_class() -> None:
    features = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 1, -1] * 3)
    domain = torch.tensor([0] * 6 + [2] * 6)
    found = prototypes(features, labels, domain, num_classes=2)
    for place in range(3):
        for cell_class in range(2):
            chosen = (domain == place) & (labels == cell_class)
            assert found.counts[place, cell_class] == chosen.sum()
            mean = features[chosen].mean(dim=0) if chosen.any() else torch.zeros(4)
            torch.testing.assert_close(found.centroids[place, cell_class], mean)


def trained(study: StudyConfig) -> tuple[dict[str, float], Arrays]:
    model = build_model(study.model, study.head_rows, seed=0)
    losses = train_boda(model, cells(), study, clinic="pooled", round_number=1)
    return losses, model_arrays(model)


def test_alignment_is_part_of_the_loss_and_of_the_update() -> None:
    (losses, light), (_, heavy) = trained(plan(0.5)), trained(plan(2.0))
    assert losses["alignment"] > 0
    assert losses["loss"] == pytest.approx(losses["classification"] + 0.5 * losses["alignment"])
    assert any(not np.array_equal(light[key], heavy[key]) for key in light)


def test_the_plan_says_what_it_computes_in() -> None:
    fp32, bf16 = (trained(plan(precision=precision))[0] for precision in ("fp32", "bf16"))
    assert bf16["loss"] == pytest.approx(fp32["loss"], rel=0.05)
    assert bf16["loss"] != fp32["loss"]


def test_cells_that_do_not_say_their_domain_are_refused() -> None:
    with pytest.raises(DataError, match="needs cells that say their domain"):
        train_boda(
            build_model(plan().model, plan().head_rows, seed=0),
            cells(domains=False),
            plan(),
            clinic="a",
            round_number=1,
        )
