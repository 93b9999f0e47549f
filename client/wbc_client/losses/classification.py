"""L1, class imbalance: cross-entropy with the clinic's own prior (docs/method.md §1).

Logit adjustment (Menon et al., ICLR 2021) and balanced softmax (Ren et al., NeurIPS 2020) with the *local* prior. Our
deviation: a label may be coarse ("neutrophil", segmented or band), so it is a set of allowed classes, and the loss is
−log of their summed probability. An exact label allows one class, and the loss is cross-entropy then.
"""

import torch

from wbc_common.study import LossSettings


def log_prior(class_counts: torch.Tensor, kappa: float) -> torch.Tensor:
    """log π_{k,c} with π_{k,c} = (n_{k,c} + κ/C) / (n_k + κ): κ pseudo-cells keep a missing class finite.

    `class_counts` [C] any number type; float [C] out (float32 from integers).
    """
    counts = class_counts if class_counts.is_floating_point() else class_counts.float()
    return torch.log((counts + kappa / len(counts)) / (counts.sum() + kappa))


def prior_offset(class_counts: torch.Tensor, settings: LossSettings) -> torch.Tensor | None:
    """What L1 adds to the logits while training: τ·log π_k [C], or None for a loss that knows no prior."""
    if settings.classification != "logit-adjusted":
        return None
    return settings.tau * log_prior(class_counts, settings.kappa)


def surprise(logits: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
    """−log Σ_{c allowed} softmax_c(logits) of each cell, float [B].

    Args:
        logits: float [B, C].
        allowed: bool [B, C], True for each class that the label admits; at least one per row.
    """
    admitted = logits.masked_fill(~allowed, -torch.inf)
    return logits.logsumexp(dim=1) - admitted.logsumexp(dim=1)


def exact_labels(allowed: torch.Tensor) -> torch.Tensor:
    """int64 [B]: the class of each label that admits one class of `allowed` bool [B, C], −1 for a coarse label."""
    return torch.where(allowed.sum(dim=1) == 1, allowed.int().argmax(dim=1), -1)
