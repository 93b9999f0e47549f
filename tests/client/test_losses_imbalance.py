"""Every classification loss of a plan against its formula written out cell by cell in plain Python."""

import math
from collections.abc import Callable

import pytest
import torch

from wbc_client.losses import imbalance_of
from wbc_common.cells import registry
from wbc_common.study import LossSettings

COUNTS = [90.0, 16.0, 1.0]
LABELS = [0, 2, 1, 0, 1]


def logits() -> torch.Tensor:
    return 2 * torch.randn(5, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def one_hot(labels: list[int]) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(labels), 3).bool()


def loss_of(settings: LossSettings, allowed: torch.Tensor, counts: list[float] = COUNTS) -> float:
    return imbalance_of(torch.tensor(counts, dtype=torch.float64), settings)(logits(), allowed).item()


def softmax(row: list[float]) -> list[float]:
    exponentials = [math.exp(value) for value in row]
    return [value / sum(exponentials) for value in exponentials]


def mean_over_cells(cell_loss: Callable[[list[float], int], float]) -> float:
    losses = [cell_loss(row, label) for row, label in zip(logits().tolist(), LABELS, strict=True)]
    return sum(losses) / len(losses)


def test_focal_loss_is_its_equation_for_each_cell() -> None:
    def focal(row: list[float], label: int) -> float:
        share = softmax(row)[label]
        return -((1 - share) ** 1.5) * math.log(share)

    settings = LossSettings(classification="focal", focal_gamma=1.5)
    assert loss_of(settings, one_hot(LABELS)) == pytest.approx(mean_over_cells(focal), rel=1e-12)


def test_class_balanced_loss_weighs_by_effective_numbers_of_mean_one() -> None:
    beta = 0.9
    raw = [(1 - beta) / (1 - beta**count) for count in COUNTS]
    weights = [3 * value / sum(raw) for value in raw]

    def balanced(row: list[float], label: int) -> float:
        return -weights[label] * math.log(softmax(row)[label])

    settings = LossSettings(classification="class-balanced", balance_beta=beta)
    assert loss_of(settings, one_hot(LABELS)) == pytest.approx(mean_over_cells(balanced), rel=1e-12)


def test_ldam_lowers_the_true_logit_by_a_margin_that_grows_as_the_class_shrinks() -> None:
    margins = [0.5 / count**0.25 for count in COUNTS]  # the rarest has one cell, and so the whole margin
    assert margins[1] == 0.25

    def ldam(row: list[float], label: int) -> float:
        scores = [3 * (value - margins[place] * (place == label)) for place, value in enumerate(row)]
        return -math.log(softmax(scores)[label])

    settings = LossSettings(classification="ldam", ldam_margin=0.5, ldam_scale=3.0)
    assert loss_of(settings, one_hot(LABELS)) == pytest.approx(mean_over_cells(ldam), rel=1e-12)


def test_fedlc_is_its_pairwise_margin_form() -> None:
    tau = 1.3

    def fedlc(row: list[float], label: int) -> float:
        others = [place for place in range(3) if place != label]
        margins = {place: tau * (COUNTS[label] ** -0.25 - COUNTS[place] ** -0.25) for place in others}
        return -math.log(1 / (1 + sum(math.exp(row[place] - row[label] + margins[place]) for place in others)))

    settings = LossSettings(classification="fedlc", fedlc_tau=tau)
    assert loss_of(settings, one_hot(LABELS)) == pytest.approx(mean_over_cells(fedlc), rel=1e-12)


@pytest.mark.parametrize(
    "settings",
    [
        LossSettings(classification="focal", focal_gamma=0.0),
        LossSettings(classification="class-balanced", balance_beta=0.0),
        LossSettings(classification="fedlc", fedlc_tau=0.0),
        LossSettings(classification="logit-adjusted", tau=0.0),
    ],
    ids=lambda settings: settings.classification,
)
def test_each_loss_is_cross_entropy_at_the_end_of_its_knob(settings: LossSettings) -> None:
    plain = torch.nn.functional.cross_entropy(logits(), torch.tensor(LABELS)).item()
    assert loss_of(settings, one_hot(LABELS)) == pytest.approx(plain, rel=1e-12)


@pytest.mark.parametrize("kind", ["class-balanced", "fedlc", "logit-adjusted"])
def test_with_equal_counts_a_count_aware_loss_is_cross_entropy(kind: str) -> None:
    plain = torch.nn.functional.cross_entropy(logits(), torch.tensor(LABELS)).item()
    settings = LossSettings.model_validate({"classification": kind})
    assert loss_of(settings, one_hot(LABELS), [40.0, 40.0, 40.0]) == pytest.approx(plain, rel=1e-9)


def test_a_coarse_label_is_focal_on_the_probability_of_its_classes() -> None:
    coarse = torch.tensor([[True, True, False]] * 5)
    shares = [softmax(row) for row in logits().tolist()]
    expected = sum(-((1 - row[0] - row[1]) ** 2) * math.log(row[0] + row[1]) for row in shares) / 5
    assert loss_of(LossSettings(classification="focal"), coarse) == pytest.approx(expected, rel=1e-9)


def test_a_coarse_label_lowers_each_of_its_classes_by_its_own_margin() -> None:
    coarse = torch.tensor([[True, True, False]] * 5)
    expected = 0.0
    for row in logits().tolist():
        scores = softmax([row[0] - 0.5 / 90**0.25, row[1] - 0.25, row[2]])
        expected -= math.log(scores[0] + scores[1]) / 5
    assert loss_of(LossSettings(classification="ldam"), coarse) == pytest.approx(expected, rel=1e-9)


def test_a_coarse_label_weighs_as_the_mean_of_its_classes_cells() -> None:
    beta = 0.9
    raw = [(1 - beta) / (1 - beta**count) for count in COUNTS]
    weights = [3 * value / sum(raw) for value in raw]
    weight = (90 * weights[0] + 16 * weights[1]) / 106
    coarse = torch.tensor([[True, True, False]] * 5)
    expected = sum(-weight * math.log(sum(softmax(row)[:2])) for row in logits().tolist()) / 5
    settings = LossSettings(classification="class-balanced", balance_beta=beta)
    assert loss_of(settings, coarse) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kind", ["focal", "class-balanced", "ldam", "fedlc", "logit-adjusted"])
def test_a_class_without_cells_and_extreme_logits_leave_loss_and_gradient_finite(kind: str) -> None:
    scores = torch.tensor([[60.0, -60.0, 0.0], [0.0, 0.0, -200.0]], requires_grad=True)
    settings = LossSettings.model_validate({"classification": kind})
    loss = imbalance_of(torch.tensor([5.0, 3.0, 0.0]), settings)(scores, torch.tensor([[True, False, False]] * 2))
    loss.backward()
    assert scores.grad is not None
    assert bool(loss.isfinite())
    assert bool(scores.grad.isfinite().all())


@pytest.mark.parametrize("kind", ["focal", "class-balanced", "ldam", "fedlc"])
def test_the_gradient_of_each_loss_is_right(kind: str) -> None:
    settings = LossSettings.model_validate({"classification": kind})
    loss = imbalance_of(torch.tensor(COUNTS, dtype=torch.float64), settings)
    allowed = torch.tensor([[True, True, False], [False, False, True], [True, False, False]])
    scores = logits()[:3].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, allowed), (scores,))


def test_a_class_of_several_rows_is_a_coarse_label_of_them() -> None:
    """13 rows for five classes give the loss of coarse labels among thirteen, whose cells count in shares."""
    rows = registry("wbc5").head_rows(fine=True)
    scores = torch.randn(6, 13, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    classes = torch.tensor([0, 1, 2, 3, 4, 0])
    counts = torch.tensor([20.0, 8, 3, 2, 0], dtype=torch.float64)
    allowed = torch.nn.functional.one_hot(classes, 5).bool()
    of_rows = torch.tensor([[own == int(label) for own in rows.class_of] for label in classes])
    shares = torch.tensor([0, 2.0, 0, 0, 0, 0, 0, 10, 10, 3, 4, 4, 0], dtype=torch.float64)
    for kind in ("logit-adjusted", "cross-entropy", "focal", "class-balanced", "ldam", "fedlc"):
        settings = LossSettings(classification=kind)  # type: ignore[arg-type]
        found = imbalance_of(counts, settings, rows)(scores, allowed)
        assert found.item() == pytest.approx(imbalance_of(shares, settings)(scores, of_rows).item(), rel=1e-12)
    assert imbalance_of(counts, LossSettings(), rows)(scores, allowed) != imbalance_of(
        counts, LossSettings(classification="cross-entropy"), rows
    )(scores, allowed)
