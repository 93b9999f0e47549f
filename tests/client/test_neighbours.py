"""Cells predicted together: neighbours agree, a cell without any keeps its word, and a clinic of few is left alone."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from wbc_client.evaluation.neighbours import LEAST_CELLS, NEIGHBOURS, RARER_COUNT_MORE, predicted_classes


def groups(*sizes: int) -> Tensor:
    """Features [N, D] of as many groups, each round a direction of its own and spread in two others."""
    features = torch.eye(8)[torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))]
    features[:, -2:] = torch.randn(sum(sizes), 2, generator=torch.Generator().manual_seed(0)) * 0.1
    return features


def sure_of(classes: Tensor, num_classes: int = 3, share: float = 0.6) -> Tensor:
    """Logits [N, C] that give the classes this share of probability."""
    rest = (1 - share) / (num_classes - 1)
    return torch.where(torch.nn.functional.one_hot(classes, num_classes).bool(), math.log(share), math.log(rest))


def test_a_few_wrong_cells_of_a_group_take_the_class_of_the_others() -> None:
    features, true = groups(40, 40), torch.repeat_interleave(torch.tensor([0, 1]), 40)
    said = true.clone()
    said[[3, 17, 60]] = 2
    assert predicted_classes(sure_of(said), features, together=True).equal(true)
    assert predicted_classes(sure_of(said), features, together=False).equal(said)


def test_the_only_cell_of_its_class_keeps_the_networks_word() -> None:
    features = groups(60, 1)
    said = torch.tensor([0] * 60 + [1])
    assert predicted_classes(sure_of(said, share=0.4), features, together=True).equal(said)


def test_a_cell_between_two_classes_is_of_the_rarer_one() -> None:
    logits = sure_of(torch.tensor([0] * 50 + [1] * 10 + [0]))
    logits[-1] = torch.tensor([math.log(0.4), math.log(0.38), math.log(0.22)])
    assert logits[-1].argmax() == 0
    assert predicted_classes(logits, groups(50, 10, 1), together=True)[-1] == 1


def test_a_clinic_of_one_class_is_not_pulled_apart() -> None:
    assert predicted_classes(sure_of(torch.ones(80, dtype=torch.int64)), groups(80), together=True).eq(1).all()


@pytest.mark.parametrize("number", [0, 1, LEAST_CELLS - 1])
def test_few_cells_are_predicted_one_by_one(number: int) -> None:
    said = torch.arange(number) % 3
    assert predicted_classes(sure_of(said), groups(number), together=True).equal(said)


def test_the_order_of_the_cells_does_not_matter() -> None:
    features, logits = groups(30, 30), torch.randn(60, 3, generator=torch.Generator().manual_seed(2))
    order = torch.randperm(60, generator=torch.Generator().manual_seed(3))
    found = predicted_classes(logits, features, together=True)
    assert predicted_classes(logits[order], features[order], together=True).equal(found[order])


def test_it_is_the_fixed_point_of_the_iteration_on_mutual_neighbours() -> None:
    features, logits = groups(30, 30), torch.randn(60, 3, generator=torch.Generator().manual_seed(2))
    unit = features / features.norm(dim=1, keepdim=True)
    likeness = (unit @ unit.T).fill_diagonal_(-2)
    near = torch.zeros(60, 60).scatter_(1, likeness.topk(NEIGHBOURS, dim=1).indices, 1.0)
    joined, own = (near * near.T).double(), logits.double().log_softmax(dim=1)
    own -= RARER_COUNT_MORE * own.exp().sum(dim=0).clamp(min=1).log()
    shares = own.softmax(dim=1)
    for _ in range(1000):
        weights = shares.sum(dim=0).clamp(min=1) ** -RARER_COUNT_MORE
        shares = (own + (joined @ shares) * weights).softmax(dim=1)
    assert not shares.argmax(dim=1).equal(own.argmax(dim=1)), "neighbours decide nothing here"
    assert predicted_classes(logits, features, together=True).equal(shares.argmax(dim=1))


def test_an_image_like_no_other_does_not_end_the_measurement() -> None:
    features, said = groups(60), torch.zeros(60, dtype=torch.int64)
    features[0], features[1] = math.inf, math.nan
    logits = sure_of(said)
    logits[2] = torch.tensor([-math.inf, 0.0, -math.inf])
    found = predicted_classes(logits, features, together=True).numpy()
    assert np.array_equal(found[3:], said[3:].numpy())
