"""Paper mode: BoDA as published, the yardstick of `wbc_client.losses.alignment` and of the centralised baseline.

Yang, Wang, Katabi, "On multi-domain long-tailed recognition, imbalanced domain generalization and beyond", ECCV 2022
(arXiv 2203.09513), eq. 4 with the calibrated distance of its section 4.3:

    d̃(z_i, μ_{d,c}) = (N_{d,c}/N_{d_i,c_i})^ν · ‖z_i − μ_{d,c}‖ / N_{d_i,c_i}
    L = −mean log [ exp(−d̃(z_i, μ_{d,c_i})) / Σ_{(d',c') ≠ (d_i,c_i)} exp(−d̃(z_i, μ_{d',c'})) ],   d ≠ d_i

It needs every domain's centroids in one place: for centralised runs and tests, never between clinics.
"""

import torch


def boda_paper_loss(
    features: torch.Tensor,
    labels: torch.Tensor,
    *,
    domains: torch.Tensor,
    centroids: torch.Tensor,
    counts: torch.Tensor,
    exponent: float,
) -> torch.Tensor:
    """The published loss, raw Euclidean distance and T = 1, averaged over all (cell, positive centroid) pairs.

    The paper sums over cells and divides by |D| − 1; averaging over the pairs that exist, as its authors' code does, is
    the same up to the batch size where every domain holds every class. Deviation: 0, not NaN, where no pair exists.

    Args:
        features: float [B, D].
        labels: int64 [B].
        domains: int64 [B], a row of `centroids` each.
        centroids: float [M, C, D] of the M domains' raw features.
        counts: [M, C], N_{d,c}; an empty (domain, class) is no anchor.
        exponent: ν.
    """
    num_domains, num_classes = counts.shape
    sizes = counts.to(features).flatten()  # [M·C]
    own = domains * num_classes + labels
    calibration = (sizes / sizes[own][:, None]).pow(exponent)  # λ, [B, M·C]
    anchors = centroids.to(features).flatten(0, 1)  # [M·C, D]
    distances = torch.cdist(features, anchors, compute_mode="donot_use_mm_for_euclid_dist")
    scores = -calibration * distances / sizes[own][:, None]

    anchor = torch.arange(num_domains * num_classes, device=features.device)
    exists = (sizes > 0) & (anchor != own[:, None])
    positive = exists & (anchor % num_classes == labels[:, None])
    log_share = scores - scores.masked_fill(~exists, -torch.inf).logsumexp(dim=1, keepdim=True)
    return -log_share[positive].sum() / positive.sum().clamp_min(1)
