"""L2, domain shift: balanced domain–class alignment for a clinic that sees one domain (docs/method.md §1).

BoDA (Yang, Wang, Katabi, ECCV 2022, eq. 4) pulls a cell towards its class in the *other* domains and away from every
other (domain, class). Our deviation: the other domains are one leave-self-out centroid per class, μ_{−k,c}, which
secure sums supply without any clinic's prototypes; features live on the unit sphere and centroids inside it; 1/N
becomes the scale-free ρ; λ and ρ are clipped. `wbc_client.losses.boda` holds the published form.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional

_CLIP = (0.1, 10.0)
# A shorter feature (all units dead) has no direction, and the gradient of ẑ = z/‖z‖ would explode there.
_SMALLEST_NORM = 1e-6


@dataclass(frozen=True)
class AlignmentAnchors:
    """Class centroids of unit-norm features as one clinic k sees them; constants while it trains.

    Args:
        other: float [C, D], μ_{−k,c}, all training clinics but this one; zeros where they have no cell.
        own: float [C, D], μ_{k,c}; zeros where the class is missing here.
        other_counts: float [C], N_c − n_{k,c}.
        own_counts: float [C], n_{k,c}.
        usable: bool [C], the other clinics' centroid rests on enough cells.
    """

    other: torch.Tensor
    own: torch.Tensor
    other_counts: torch.Tensor
    own_counts: torch.Tensor
    usable: torch.Tensor


def class_sums(features: torch.Tensor, labels: torch.Tensor, num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """S_{k,c} = Σ ẑ_i and n_{k,c}, what a clinic puts into the secure sum: float64 [C, D] and float64 [C].

    `features` float [N, D]; `labels` int64 [N], −1 (coarse) is left out.
    """
    exact = labels >= 0
    units = functional.normalize(features[exact].detach().double(), dim=1)
    sums = units.new_zeros(num_classes, features.shape[1]).index_add_(0, labels[exact], units)
    return sums, torch.bincount(labels[exact], minlength=num_classes).double()


def anchors_from_sums(
    total_sums: torch.Tensor,
    total_counts: torch.Tensor,
    own_sums: torch.Tensor,
    own_counts: torch.Tensor,
    min_cells: int,
) -> AlignmentAnchors | None:
    """The anchors of one clinic, or None where no class has `min_cells` cells at the other clinics (one clinic alone).

    Args:
        total_sums: float [C, D], S_c over all training clinics, this one included.
        total_counts: float [C], N_c.
        own_sums: float [C, D], S_{k,c}, as this clinic sent it.
        own_counts: float [C], n_{k,c}.
        min_cells: n_min, at least 1.
    """
    other_counts = total_counts - own_counts
    usable = other_counts >= min_cells
    if not bool(usable.any()):
        return None
    return AlignmentAnchors(
        other=_centroids(total_sums - own_sums, other_counts),
        own=_centroids(own_sums, own_counts),
        other_counts=other_counts,
        own_counts=own_counts,
        usable=usable,
    )


def alignment_loss(
    features: torch.Tensor,
    labels: torch.Tensor,
    anchors: AlignmentAnchors,
    *,
    temperature: float,
    exponent: float,
) -> torch.Tensor:
    """L2 of docs/method.md §1, summed over the cells that have a usable anchor and divided by B.

    Dividing by B and not by the number of those cells keeps each cell's term independent of its batch, as the
    per-cell gradients of DP-SGD require, and its weight beside L1 the same in every batch.

    Args:
        features: float [B, D], before normalisation.
        labels: int64 [B], −1 for a coarse label, which is left out.
        anchors: this clinic's, of any float type and device; converted to those of the features.
        temperature: T.
        exponent: ν.
    """
    usable = anchors.usable.to(features.device)
    own_counts, other_counts = anchors.own_counts.to(features), anchors.other_counts.to(features)
    present = own_counts > 0
    counted = (labels >= 0) & (usable & present)[labels.clamp_min(0)] & (features.norm(dim=1) > _SMALLEST_NORM)
    units, classes = functional.normalize(features[counted], dim=1), labels[counted]  # [A, D], [A]

    centroids = torch.cat([anchors.other, anchors.own]).to(features)  # [2C, D]
    weights = _balance(torch.cat([other_counts, own_counts]), own_counts[classes], exponent)  # [A, 2C]
    rarity = (own_counts[present].mean() / own_counts[classes]).clamp(*_CLIP)  # ρ, [A]
    distances = torch.cdist(units, centroids, compute_mode="donot_use_mm_for_euclid_dist")  # gradient 0 at distance 0
    scores = -weights * rarity[:, None] * distances / temperature  # s₋ then s₊, [A, 2C]

    own_class = functional.one_hot(classes, len(usable)).bool()
    terms = torch.cat([usable.expand_as(own_class), present & ~own_class], dim=1)
    denominator = scores.masked_fill(~terms, -torch.inf).logsumexp(dim=1)
    positive = scores.gather(1, classes[:, None]).squeeze(1)
    return (denominator - positive).sum() / len(features)


def _centroids(sums: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Sums over counts, [C, D]; zeros where the count is 0 (never used, and no NaN to spread)."""
    empty = (counts <= 0)[:, None]
    return (sums / counts.clamp_min(1)[:, None]).masked_fill(empty, 0)


def _balance(anchor_counts: torch.Tensor, own_counts: torch.Tensor, exponent: float) -> torch.Tensor:
    """λ(m; n) = clip((m/n)^ν, 0.1, 10) for anchors of m [M] cells and labels of n [A] cells: [A, M]."""
    return (anchor_counts / own_counts[:, None]).clamp_min(0).pow(exponent).clamp(*_CLIP)
