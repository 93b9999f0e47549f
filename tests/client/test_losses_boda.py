"""BoDA as published, against the paper's eq. 4 in double loops of plain Python."""

import math

import pytest
import torch

from wbc_client.losses import boda_paper_loss


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_boda(
    features: torch.Tensor,
    labels: list[int],
    domains: list[int],
    centroids: torch.Tensor,
    counts: torch.Tensor,
    nu: float,
) -> float:
    """Eq. 4 of arXiv 2203.09513 with the calibrated distance, over ordered (cell, positive) pairs."""
    table, pairs = counts.tolist(), []
    anchors = [(d, c) for d in range(len(table)) for c in range(len(table[0])) if table[d][c] > 0]
    for z, c, d in zip(features.tolist(), labels, domains, strict=True):

        def share(anchor: tuple[int, int], z: list[float] = z, size: float = table[d][c]) -> float:
            calibrated = (table[anchor[0]][anchor[1]] / size) ** nu
            return math.exp(-calibrated * math.dist(z, centroids[anchor].tolist()) / size)

        denominator = sum(share(anchor) for anchor in anchors if anchor != (d, c))
        pairs += [-math.log(share(anchor) / denominator) for anchor in anchors if anchor[1] == c and anchor[0] != d]
    return sum(pairs) / len(pairs)


@pytest.mark.parametrize("counts", [[[5, 5], [5, 5], [5, 5]], [[9, 2], [1, 4], [0, 30]]], ids=["balanced", "ragged"])
def test_paper_mode_equals_the_published_loss_in_slow_loops(counts: list[list[int]]) -> None:
    features, centroids = 3 * normal(6, 4), 3 * normal(3, 2, 4, seed=1)
    labels, domains, table = [0, 1, 1, 0, 1, 1], [0, 0, 1, 1, 2, 2], torch.tensor(counts)
    fast = boda_paper_loss(
        features, torch.tensor(labels), domains=torch.tensor(domains), centroids=centroids, counts=table, exponent=0.5
    )
    assert fast.item() == pytest.approx(slow_boda(features, labels, domains, centroids, table, 0.5), rel=1e-10)


def test_paper_mode_of_a_single_domain_is_zero_where_the_published_code_divides_zero_by_zero() -> None:
    features = normal(2, 4).requires_grad_()
    labels = torch.tensor([0, 1])
    loss = boda_paper_loss(
        features,
        labels,
        domains=torch.zeros_like(labels),
        centroids=normal(1, 2, 4),
        counts=torch.tensor([[3, 4]]),
        exponent=1,
    )
    loss.backward()
    assert loss.item() == 0
    torch.testing.assert_close(features.grad, torch.zeros(2, 4, dtype=torch.float64))
