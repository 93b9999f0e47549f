"""The whole loss of a clinic, as one value that training calls on each batch.

`DomainAwareLoss` is made once per round, from the plan, the clinic's class counts and what came with the round
(anchors, the head as received). A weight of 0, no anchor or no head switches a term off: it is then not computed.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.nn import functional

from wbc_client.losses.alignment import AlignmentAnchors, alignment_loss
from wbc_client.losses.classification import exact_labels
from wbc_client.losses.imbalance import Imbalance
from wbc_common.study import LossSettings


class LossTerms(NamedTuple):
    """Scalars of one batch: the sum to minimise, and its unweighted terms (L1, L2, L3) for the record."""

    total: torch.Tensor
    classification: torch.Tensor
    alignment: torch.Tensor
    guide: torch.Tensor


@dataclass(frozen=True)
class DomainAwareLoss:
    """L1 + w2·L2 + w3·L3; the proximal term looks at parameters and is `proximal_term`.

    Args:
        settings: the plan's weights, T and ν.
        classify: the plan's classification loss under this clinic's counts (`imbalance_of`).
        anchors: this clinic's (`anchors_from_sums`), or None where there are none, as in the warm-up.
        frozen_head: weight [R, D] and bias [R] as received, for the guide; None switches it off.
    """

    settings: LossSettings
    classify: Imbalance
    anchors: AlignmentAnchors | None
    frozen_head: tuple[torch.Tensor, torch.Tensor] | None

    def __call__(self, features: torch.Tensor, logits: torch.Tensor, allowed: torch.Tensor) -> LossTerms:
        """The terms for `features` [B, D], `logits` [B, R] of the head's rows and `allowed` bool [B, C]."""
        classification = self.classify(logits, allowed)
        alignment = self._alignment(features, allowed)
        guide = self._guide(features, allowed)
        total = classification + self.settings.alignment_weight * alignment + self.settings.guide_weight * guide
        return LossTerms(total, classification, alignment, guide)

    def _alignment(self, features: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        if self.anchors is None or self.settings.alignment_weight == 0:
            return features.new_zeros(())
        return alignment_loss(
            features,
            exact_labels(allowed),
            self.anchors,
            temperature=self.settings.alignment_temperature,
            exponent=self.settings.alignment_exponent,
        )

    def _guide(self, features: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        """L3 (gPerXAN, CVPR 2024): L1 through the head as received, which keeps features readable by it."""
        if self.frozen_head is None or self.settings.guide_weight == 0:
            return features.new_zeros(())
        weight, bias = self.frozen_head
        return self.classify(functional.linear(features, weight.detach(), bias.detach()), allowed)


def proximal_term(parameters: Iterable[torch.Tensor], received: Iterable[torch.Tensor]) -> torch.Tensor:
    """½·‖θ − θ_t‖² over parameters paired in order (FedProx, Li et al., MLSys 2020); the caller multiplies by μ."""
    squares = [(now - then.detach()).square().sum() for now, then in zip(parameters, received, strict=True)]
    return torch.stack(squares).sum() / 2
