"""L2 (docs/method.md §1), against its formulas in double loops of plain Python and against numbers worked by hand."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from wbc_client.losses import (
    AlignmentAnchors,
    DomainAwareLoss,
    Imbalance,
    alignment_loss,
    anchors_from_sums,
    boda_paper_loss,
    class_sums,
)
from wbc_common.study import LossSettings


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def anchors_of(
    own_counts: list[float], other_counts: list[float], min_cells: int = 50, seed: int = 0
) -> AlignmentAnchors:
    """Random centroids well inside the unit ball, D = 4."""
    own, other = torch.tensor(own_counts).double(), torch.tensor(other_counts).double()
    directions = functional.normalize(normal(2, len(own), 4, seed=seed), dim=2) * 0.8
    own_sums = directions[0] * own[:, None]
    total_sums = own_sums + directions[1] * other[:, None]
    anchors = anchors_from_sums(total_sums, own + other, own_sums, own, min_cells)
    assert anchors is not None
    return anchors


def clip(value: float) -> float:
    return min(max(value, 0.1), 10.0)


def slow_alignment(
    features: torch.Tensor, labels: list[int], anchors: AlignmentAnchors, temperature: float, exponent: float
) -> float:
    """The formulas of docs/method.md §1, one cell and one class at a time."""
    own_counts, other_counts = anchors.own_counts.tolist(), anchors.other_counts.tolist()
    other, own, usable = anchors.other.tolist(), anchors.own.tolist(), anchors.usable.tolist()
    present = [count for count in own_counts if count > 0]
    total = 0.0
    for z, y in zip(features.tolist(), labels, strict=True):
        if y < 0 or not usable[y]:
            continue
        norm = math.sqrt(sum(value**2 for value in z))
        unit = [value / norm for value in z]
        rho = clip(sum(present) / len(present) / own_counts[y])
        numerator, denominator = math.nan, 0.0
        for c in range(len(usable)):
            if usable[c]:
                balance = clip((other_counts[c] / own_counts[y]) ** exponent)
                share = math.exp(-balance * rho * math.dist(unit, other[c]) / temperature)
                denominator += share
                numerator = share if c == y else numerator
            if c != y and own_counts[c] > 0:
                balance = clip((own_counts[c] / own_counts[y]) ** exponent)
                denominator += math.exp(-balance * rho * math.dist(unit, own[c]) / temperature)
        total -= math.log(numerator / denominator)
    return total / len(labels)


@pytest.mark.parametrize(
    ("own_counts", "other_counts", "labels"),
    [
        ([100, 100, 100], [100, 100, 100], [0, 1, 2, 1]),
        ([900, 30, 1], [200, 5000, 60], [0, 1, 2, 0]),
        ([80, 0, 20], [300, 70, 900], [0, 2, 2, 0]),
        ([80, 40, 20], [300, 49, 0], [0, 1, 2, 0]),
        ([200_000, 3, 50], [60, 900_000, 70], [1, 0, 2, 1]),
        ([80, 40, 20], [300, 90, 70], [-1, 1, -1, 0]),
    ],
    ids=["balanced", "long tail", "class missing here", "anchors unusable", "λ and ρ clipped", "coarse labels"],
)
@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_alignment_equals_its_formula_in_slow_loops(
    own_counts: list[float], other_counts: list[float], labels: list[int], exponent: float
) -> None:
    anchors, features = anchors_of(own_counts, other_counts), normal(4, 4, seed=7)
    fast = alignment_loss(features, torch.tensor(labels), anchors, temperature=0.4, exponent=exponent)
    slow = slow_alignment(features, labels, anchors, temperature=0.4, exponent=exponent)
    assert slow > 0
    assert fast.item() == pytest.approx(slow, rel=1e-10)


def balanced_plane() -> AlignmentAnchors:
    """Two classes on the axes of the plane, 100 cells everywhere: λ = ρ = 1."""
    counts = torch.full((2,), 100.0)
    return AlignmentAnchors(torch.eye(2), torch.eye(2), counts, counts, torch.tensor([True, True]))


def test_a_cell_on_its_own_anchor_meets_two_negatives_at_the_square_root_of_two() -> None:
    features = torch.tensor([[5.0, 0.0]], requires_grad=True)
    loss = alignment_loss(features, torch.tensor([0]), balanced_plane(), temperature=1.0, exponent=0.5)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(1 + 2 * math.exp(-math.sqrt(2))))
    assert features.grad is not None
    assert bool(features.grad.isfinite().all())


def test_a_step_down_the_gradient_turns_the_cell_towards_its_class_elsewhere() -> None:
    features = torch.tensor([[1.0, 1.0]], requires_grad=True)
    alignment_loss(features, torch.tensor([1]), balanced_plane(), temperature=0.15, exponent=0.5).backward()
    assert features.grad is not None
    assert features.grad[0, 1] < 0 < features.grad[0, 0]


def test_the_gradient_of_alignment_is_right() -> None:
    anchors, labels = anchors_of([80, 0, 20, 9], [300, 70, 900, 10]), torch.tensor([0, 2, -1, 3, 2])
    features = normal(5, 4, seed=3).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: alignment_loss(x, labels, anchors, temperature=0.5, exponent=0.5), (features,)
    )


@given(st.integers(1, 10_000))
def test_counting_every_cell_m_times_leaves_alignment_as_it_was(m: int) -> None:
    once = anchors_of([80, 0, 20], [300, 70, 900])
    often = dataclasses.replace(once, own_counts=m * once.own_counts, other_counts=m * once.other_counts)
    features, labels = normal(3, 4, seed=2), torch.tensor([0, 2, 0])
    torch.testing.assert_close(
        alignment_loss(features, labels, often, temperature=0.15, exponent=0.5),
        alignment_loss(features, labels, once, temperature=0.15, exponent=0.5),
    )


def test_each_cells_term_is_independent_of_the_rest_of_its_batch() -> None:
    anchors, features, labels = anchors_of([80, 40, 20], [300, 49, 90]), normal(5, 4), torch.tensor([0, 1, 2, -1, 2])
    whole = alignment_loss(features, labels, anchors, temperature=0.15, exponent=0.5)
    alone = [
        alignment_loss(features[i : i + 1], labels[i : i + 1], anchors, temperature=0.15, exponent=0.5)
        for i in range(5)
    ]
    torch.testing.assert_close(whole, torch.stack(alone).mean())


@pytest.mark.parametrize(
    ("features", "label"),
    [(torch.ones(2, 4), -1), (torch.ones(2, 4), 1), (torch.zeros(2, 4), 0)],
    ids=["coarse label", "no usable anchor for the class", "dead feature without direction"],
)
def test_a_batch_in_which_no_cell_counts_gives_zero_and_no_nan(features: torch.Tensor, label: int) -> None:
    features = features.clone().requires_grad_()
    loss = alignment_loss(
        features, torch.full((2,), label), anchors_of([80, 40], [300, 49]), temperature=0.15, exponent=0.5
    )
    loss.backward()
    assert loss.item() == 0
    torch.testing.assert_close(features.grad, torch.zeros(2, 4))


def test_one_clinic_alone_has_no_anchors_and_an_alignment_of_zero() -> None:
    sums, counts = class_sums(normal(60, 4), torch.zeros(60, dtype=torch.int64), 2)
    anchors = anchors_from_sums(sums, counts, sums, counts, min_cells=1)
    assert anchors is None
    features = normal(2, 4).requires_grad_()
    allowed = torch.tensor([[True, False], [True, False]])
    terms = DomainAwareLoss(LossSettings(), Imbalance(), anchors, None)(features, features[:, :2], allowed)
    terms.total.backward()
    assert terms.alignment.item() == 0
    assert features.grad is not None
    assert bool(features.grad.isfinite().all())


def test_class_sums_add_over_clinics_and_leave_coarse_labels_out() -> None:
    features = torch.tensor([[3.0, 4.0], [0.0, 2.0], [-1.0, 0.0], [9.0, 9.0]])
    sums, counts = class_sums(features, torch.tensor([0, 0, 2, -1]), 3)
    torch.testing.assert_close(sums, torch.tensor([[0.6, 1.8], [0, 0], [-1, 0]], dtype=torch.float64))
    assert counts.tolist() == [2, 0, 1]


def test_the_leave_self_out_centroid_is_the_mean_over_the_other_clinics_cells() -> None:
    clinics = [
        (normal(40, 4, seed=k), torch.randint(0, 2, (40,), generator=torch.Generator().manual_seed(k)))
        for k in range(3)
    ]
    sums, counts = zip(*(class_sums(features, labels, 3) for features, labels in clinics), strict=True)
    anchors = anchors_from_sums(sum(sums[1:], sums[0]), sum(counts[1:], counts[0]), sums[0], counts[0], min_cells=1)
    assert anchors is not None

    others = torch.cat([features for features, _ in clinics[1:]]), torch.cat([labels for _, labels in clinics[1:]])
    for cell_class in (0, 1):
        for centroid, (features, labels) in ((anchors.other, others), (anchors.own, clinics[0])):
            units = features[labels == cell_class] / features[labels == cell_class].norm(dim=1, keepdim=True)
            torch.testing.assert_close(centroid[cell_class], units.mean(0))
    assert anchors.usable.tolist() == [True, True, False]
    assert anchors.other[2].tolist() == anchors.own[2].tolist() == [0, 0, 0, 0]


def test_an_anchor_is_usable_from_exactly_the_least_number_of_cells() -> None:
    assert anchors_of([10, 10, 10], [49, 50, 51], min_cells=50).usable.tolist() == [False, True, True]


def test_for_two_equally_filled_domains_our_loss_at_temperature_n_is_the_published_one() -> None:
    cells_each, labels = 60.0, torch.tensor([0, 1, 2, 2])
    anchors = anchors_of([cells_each] * 3, [cells_each] * 3)
    features = functional.normalize(normal(4, 4, seed=5), dim=1)
    published = boda_paper_loss(
        features,
        labels,
        domains=torch.zeros_like(labels),
        centroids=torch.stack([anchors.own, anchors.other]),
        counts=torch.full((2, 3), cells_each),
        exponent=0.5,
    )
    ours = alignment_loss(features, labels, anchors, temperature=cells_each, exponent=0.5)
    torch.testing.assert_close(ours, published)
