"""L1, L3 and the sum of terms (docs/method.md §1), against numbers worked by hand and slow loops in plain Python."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from wbc_client.losses import (
    DomainAwareLoss,
    Imbalance,
    alignment_loss,
    anchors_from_sums,
    exact_labels,
    log_prior,
    prior_offset,
    proximal_term,
)
from wbc_common.study import LossSettings


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def classification_loss(logits: torch.Tensor, allowed: torch.Tensor, offset: torch.Tensor | None) -> torch.Tensor:
    return Imbalance(offset)(logits, allowed)


def one_hot(labels: list[int], num_classes: int) -> torch.Tensor:
    return functional.one_hot(torch.tensor(labels), num_classes).bool()


def test_the_prior_counts_kappa_cells_spread_over_the_classes() -> None:
    prior = log_prior(torch.tensor([7, 0, 2]), kappa=3.0).exp()
    torch.testing.assert_close(prior, torch.tensor([8 / 12, 1 / 12, 3 / 12]))


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=13), st.floats(0.01, 100))
def test_the_prior_is_finite_and_sums_to_one(counts: list[int], kappa: float) -> None:
    prior = log_prior(torch.tensor(counts, dtype=torch.float64), kappa)
    assert bool(prior.isfinite().all())
    assert prior.exp().sum().item() == pytest.approx(1)


def test_with_equal_counts_the_adjusted_loss_is_cross_entropy() -> None:
    logits, labels = normal(6, 4), [0, 1, 2, 3, 0, 2]
    offset = log_prior(torch.tensor([25.0, 25, 25, 25]).double(), kappa=1.0)
    expected = functional.cross_entropy(logits, torch.tensor(labels))
    torch.testing.assert_close(classification_loss(logits, one_hot(labels, 4), offset), expected)
    torch.testing.assert_close(classification_loss(logits, one_hot(labels, 4), None), expected)


def test_the_adjusted_loss_equals_its_formula_written_out_for_each_cell() -> None:
    logits, labels, counts, tau, kappa = normal(5, 3), [0, 2, 1, 0, 0], [90.0, 0.0, 7.0], 0.7, 2.0
    prior = [(count + kappa / 3) / (97 + kappa) for count in counts]
    losses = []
    for row, label in zip(logits.tolist(), labels, strict=True):
        adjusted = [value + tau * math.log(share) for value, share in zip(row, prior, strict=True)]
        losses.append(-math.log(math.exp(adjusted[label]) / sum(math.exp(value) for value in adjusted)))
    settings = LossSettings(tau=tau, kappa=kappa)
    offset = prior_offset(torch.tensor(counts, dtype=torch.float64), settings)
    assert classification_loss(logits, one_hot(labels, 3), offset).item() == pytest.approx(sum(losses) / 5, rel=1e-12)


def test_an_offset_of_other_precision_leaves_the_loss_in_that_of_the_logits() -> None:
    offset = log_prior(torch.tensor([5.0, 1, 0], dtype=torch.float64), kappa=1.0)
    assert classification_loss(torch.zeros(1, 3), one_hot([0], 3), offset).dtype == torch.float32


def test_cross_entropy_as_a_setting_adds_no_offset() -> None:
    assert prior_offset(torch.tensor([1, 2]), LossSettings(classification="cross-entropy")) is None


def test_a_class_missing_at_the_clinic_is_hardly_pushed_away() -> None:
    gradients = []
    for offset in (None, log_prior(torch.tensor([500, 499, 0]), kappa=1.0)):
        logits = torch.zeros(1, 3, requires_grad=True)
        classification_loss(logits, one_hot([0], 3), offset).backward()
        assert logits.grad is not None
        gradients.append(logits.grad[0, 2].item())
    assert gradients[0] == pytest.approx(1 / 3)
    assert gradients[1] == pytest.approx((1 / 3) / 1000, rel=1e-3)


def test_a_coarse_label_is_cross_entropy_of_the_merged_classes() -> None:
    logits, offset = normal(4, 3), normal(3, seed=1)
    coarse = torch.tensor([[True, True, False], [False, False, True]]).repeat(2, 1)
    shares = torch.softmax(logits + offset, dim=1)
    merged = torch.stack([shares[:, 0] + shares[:, 1], shares[:, 2]], dim=1)
    expected = functional.nll_loss(merged.log(), torch.tensor([0, 1, 0, 1]))
    torch.testing.assert_close(classification_loss(logits, coarse, offset), expected)


def test_a_label_that_allows_every_class_teaches_nothing() -> None:
    logits = normal(2, 3).requires_grad_()
    loss = classification_loss(logits, torch.ones(2, 3, dtype=torch.bool), None)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(logits.grad, torch.zeros(2, 3, dtype=torch.float64))


def test_large_logits_neither_overflow_nor_lose_the_gradient() -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    loss = classification_loss(logits, one_hot([1], 3), None)
    loss.backward()
    assert loss.item() == pytest.approx(2e4)
    torch.testing.assert_close(logits.grad, torch.tensor([[1.0, -1.0, 0.0]]))


def test_the_gradient_of_the_classification_loss_is_right() -> None:
    allowed = torch.tensor([[True, True, False, False], [False, False, True, False]])
    offset = log_prior(torch.tensor([5.0, 0, 90, 5]).double(), kappa=1.0)
    logits = normal(2, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: classification_loss(x, allowed, offset), (logits,))


def test_a_label_is_exact_where_it_allows_one_class() -> None:
    allowed = torch.tensor([[False, True, False], [True, True, False], [False, False, True]])
    assert exact_labels(allowed).tolist() == [1, -1, 2]


def test_the_total_is_the_weighted_sum_of_terms_computed_one_by_one() -> None:
    settings = LossSettings(alignment_weight=0.2, guide_weight=0.5, alignment_temperature=0.3, alignment_exponent=1.0)
    features, head, bias = normal(4, 5), normal(3, 5, seed=1), normal(3, seed=2)
    received = (normal(3, 5, seed=3), normal(3, seed=4))
    labels = [0, 1, 2, 1]
    counts = torch.tensor([60.0, 70, 80]).double()
    anchors = anchors_from_sums(normal(3, 5, seed=5), 2 * counts, normal(3, 5, seed=6), counts, 50)
    assert anchors is not None
    loss = DomainAwareLoss(settings, Imbalance(log_prior(counts, 1.0)), anchors, received)

    terms = loss(features, features @ head.T + bias, one_hot(labels, 3))

    prior, target = log_prior(counts, 1.0), torch.tensor(labels)
    classification = functional.cross_entropy(features @ head.T + bias + prior, target)
    guide = functional.cross_entropy(features @ received[0].T + received[1] + prior, target)
    alignment = alignment_loss(features, target, anchors, temperature=0.3, exponent=1.0)
    assert alignment.item() > 0
    torch.testing.assert_close(terms.classification, classification)
    torch.testing.assert_close(terms.guide, guide)
    torch.testing.assert_close(terms.alignment, alignment)
    torch.testing.assert_close(terms.total, classification + 0.2 * alignment + 0.5 * guide)


def test_the_guide_teaches_the_backbone_and_not_the_head_it_received() -> None:
    features = normal(2, 3).requires_grad_()
    weight, bias = normal(2, 3, seed=1).requires_grad_(), normal(2, seed=2).requires_grad_()
    loss = DomainAwareLoss(LossSettings(), Imbalance(), None, (weight, bias))
    loss(features, torch.zeros(2, 2, dtype=torch.float64), one_hot([0, 1], 2)).total.backward()
    assert weight.grad is None
    assert bias.grad is None
    assert features.grad is not None
    assert features.grad.abs().sum() > 0


def test_a_term_switched_off_leaves_classification_alone() -> None:
    counts = torch.full((2,), 60.0).double()
    anchors = anchors_from_sums(normal(2, 3), 2 * counts, normal(2, 3, seed=1), counts, 50)
    settings = LossSettings(alignment_weight=0, guide_weight=0)
    loss = DomainAwareLoss(settings, Imbalance(), anchors, (normal(2, 3), normal(2)))
    terms = loss(normal(4, 3), normal(4, 2), one_hot([0, 1, 0, 1], 2))
    assert terms.total.item() == terms.classification.item() > 0
    assert terms.alignment.item() == terms.guide.item() == 0


@pytest.mark.parametrize(
    ("warmup", "rounds", "first_round_on"),
    [(0.0, 5, 1), (0.15, 20, 4), (0.15, 10, 3), (0.07, 100, 8), (0.29, 100, 30), (1.0, 5, None)],
)
def test_alignment_starts_after_the_warm_up_share_of_the_rounds(
    warmup: float, rounds: int, first_round_on: int | None
) -> None:
    settings = LossSettings(alignment_weight=0.1, alignment_warmup=warmup)
    on = [number for number in range(1, rounds + 1) if settings.aligns(number, rounds)]
    assert on == ([] if first_round_on is None else list(range(first_round_on, rounds + 1)))


def test_alignment_of_weight_zero_is_never_on() -> None:
    assert not LossSettings(alignment_weight=0).aligns(9, 10)


def test_the_proximal_term_is_half_the_squared_distance_and_pulls_back() -> None:
    now, received = torch.tensor([3.0, 0.0], requires_grad=True), torch.zeros(2, requires_grad=True)
    term = proximal_term([now, torch.tensor([[4.0]])], [received, torch.zeros(1, 1)])
    term.backward()
    assert term.item() == 12.5
    torch.testing.assert_close(now.grad, torch.tensor([3.0, 0.0]))
    assert received.grad is None


def test_the_proximal_term_refuses_models_of_different_length() -> None:
    with pytest.raises(ValueError, match="zip"):
        proximal_term([torch.zeros(1)], [torch.zeros(1), torch.zeros(1)])
