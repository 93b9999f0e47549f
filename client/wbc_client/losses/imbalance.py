"""The classification losses of a plan, all as one formula (docs/method.md §1).

With p(m) = Σ_{c allowed} softmax_c(s·(z + o − m·[c allowed])) the loss of a cell is w·(1 − p)^γ·(−log p), where

    logit-adjusted   o_c = τ·log π_{k,c}                      Menon et al. 2021, Ren et al. 2020, with the local prior
    cross-entropy    nothing
    focal            γ                                         Lin et al. 2017 (arXiv 1708.02002), eq. 4
    class-balanced   w_c ∝ (1 − β)/(1 − β^{n_c})               Cui et al. 2019 (arXiv 1901.05555), eq. 4
    LDAM             m_c ∝ n_c^{−1/4}, s                       Cao et al. 2019 (arXiv 1906.07413), eq. 13
    FedLC            o_c = −τ·n_c^{−1/4}                       Zhang et al. 2022 (arXiv 2209.00189), eq. 6

Counts are the clinic's own. Our deviations: a label may be coarse, so p is the probability of all classes it allows,
each lowered by its own margin, and its weight is the mean of its classes' weights in the shares that the clinic holds.
Where a class has several rows of the head (`wbc_common.head_rows`), all of the above is of rows in place of classes: a
label allows all rows of its class, which have equal shares of its cells.
LDAM's authors normalise features and head rows, so that their logits are cosines and s = 30; our head is a plain
linear layer, whose logits need no scale, and s = 1 is the default. Weights have a mean of 1 over the classes present.
"""

from dataclasses import dataclass, replace

import torch

from wbc_client.losses.classification import prior_offset, surprise
from wbc_common.head_rows import HeadRows
from wbc_common.study import LossSettings

# A class that the clinic has not: FedLC's margin τ·n^(−1/4) is then 100·τ, as in its authors' code.
_FEDLC_SMALLEST_COUNT = 1e-8


@dataclass(frozen=True)
class Imbalance:
    """How a clinic's counts bend its classification loss; the default is plain cross-entropy.

    Args:
        offset: o, float [C], added to the logits.
        margin: m, float [C], taken from the logits of the classes that the label allows.
        scale: s.
        weight: w, float [C], of exact labels.
        shares: n_c, float [C], by which a coarse label's weight is the mean of its classes' weights.
        focus: γ.
        class_of: int64 [R], the class of each row of the head, −1 for none; None where rows are classes.
    """

    offset: torch.Tensor | None = None
    margin: torch.Tensor | None = None
    scale: float = 1.0
    weight: torch.Tensor | None = None
    shares: torch.Tensor | None = None
    focus: float = 0.0
    class_of: torch.Tensor | None = None

    def __call__(self, logits: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        """The mean loss of a batch: `logits` float [B, R] of the head's rows, `allowed` bool [B, C], not all False."""
        if self.class_of is not None:
            allowed = allowed[:, self.class_of.clamp_min(0)] & (self.class_of >= 0)
        adjusted = logits if self.offset is None else logits + self.offset.to(logits)
        if self.margin is not None:
            adjusted = adjusted - self.margin.to(logits) * allowed
        loss = surprise(self.scale * adjusted, allowed)  # −log p, [B]
        if self.focus > 0:
            loss = (-torch.expm1(-loss)).clamp_min(torch.finfo(logits.dtype).tiny).pow(self.focus) * loss
        if self.weight is not None:
            loss = self._label_weights(allowed).to(logits) * loss
        return loss.mean()

    def _label_weights(self, allowed: torch.Tensor) -> torch.Tensor:
        """float [B]; a coarse label of classes that the clinic has no exact cell of weighs 1."""
        assert self.weight is not None
        assert self.shares is not None, "class weights come with their shares"
        shares = allowed * self.shares.to(allowed.device)
        total = shares.sum(dim=1)
        mean = (shares * self.weight.to(allowed.device)).sum(dim=1) / total.clamp_min(torch.finfo(shares.dtype).tiny)
        return torch.where(total > 0, mean, 1.0)


def imbalance_of(class_counts: torch.Tensor, settings: LossSettings, rows: HeadRows | None = None) -> Imbalance:
    """The plan's classification loss for a clinic's class counts.

    Args:
        class_counts: float [C], on the device of the loss; a coarse cell counts in shares.
        settings: the plan's `[loss]`.
        rows: of the head; None for a row a class.
    """
    if rows is None or rows.are_classes:
        return _of_counts(class_counts, settings)
    counts = torch.from_numpy(rows.shared(class_counts.cpu().numpy())).to(class_counts)
    class_of = torch.tensor(rows.class_of, device=class_counts.device)
    return replace(_of_counts(counts, settings), class_of=class_of)


def _of_counts(class_counts: torch.Tensor, settings: LossSettings) -> Imbalance:
    kind = settings.classification
    if kind == "focal":
        return Imbalance(focus=settings.focal_gamma)
    if kind == "class-balanced":
        return Imbalance(weight=effective_number_weights(class_counts, settings.balance_beta), shares=class_counts)
    if kind == "ldam":
        return Imbalance(margin=ldam_margins(class_counts, settings.ldam_margin), scale=settings.ldam_scale)
    if kind == "fedlc":
        return Imbalance(offset=fedlc_offset(class_counts, settings.fedlc_tau))
    return Imbalance(offset=prior_offset(class_counts, settings))


def effective_number_weights(class_counts: torch.Tensor, beta: float) -> torch.Tensor:
    """(1 − β)/(1 − β^{n_c}), scaled to a mean of 1 over the classes present; 0 for a class without cells. [C]"""
    counts = class_counts.double()
    present = counts > 0
    # expm1 keeps 1 − β^n exact where β is close to 1.
    effective = -torch.expm1(counts * torch.log(torch.tensor(beta, dtype=torch.float64)))
    weights = torch.where(present, (1 - beta) / effective.clamp_min(1e-300), 0.0)
    return (weights * present.sum() / weights.sum().clamp_min(1e-300)).to(class_counts)


def ldam_margins(class_counts: torch.Tensor, largest: float) -> torch.Tensor:
    """n_c^{−1/4} [C], scaled so that the rarest class present, and any without cells, has the margin `largest`."""
    present = class_counts > 0
    rarest = class_counts[present].min() if bool(present.any()) else class_counts.new_ones(())
    return largest * (rarest / torch.where(present, class_counts, rarest)).pow(0.25)


def fedlc_offset(class_counts: torch.Tensor, tau: float) -> torch.Tensor:
    """−τ·n_c^{−1/4} [C]."""
    return -tau * class_counts.clamp_min(_FEDLC_SMALLEST_COUNT).pow(-0.25)
