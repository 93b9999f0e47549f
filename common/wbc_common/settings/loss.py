"""[loss]: which imbalance-aware classification loss, and the weights of the terms beside it (docs/method.md §1)."""

import math
from typing import Literal

from pydantic import Field

from wbc_common.settings.reading import Settings

LEAST_IN_A_TOTAL = 3  # clinics whose class sums are added: of two, each knows the other's by taking out its own
Classification = Literal["logit-adjusted", "cross-entropy", "focal", "class-balanced", "ldam", "fedlc"]


class LossSettings(Settings):
    """The domain-aware loss L1 + w2·L2 + w3·L3 + (μ/2)·‖θ − θ_t‖²; a weight of 0 switches a term off."""

    classification: Classification = "logit-adjusted"
    tau: float = Field(0.5, ge=0, le=10, description="strength of the prior's correction")
    kappa: float = Field(1.0, gt=0, le=1000, description="pseudo-cells that smooth the prior")
    focal_gamma: float = Field(2.0, ge=0, le=10, description="γ of focal; 0 is cross-entropy")
    balance_beta: float = Field(0.999, ge=0, lt=1, description="β of class-balanced; 0 is cross-entropy")
    ldam_margin: float = Field(0.5, gt=0, le=10, description="margin of the rarest class, in logits")
    ldam_scale: float = Field(1.0, gt=0, le=100, description="s, multiplies the logits after the margin")
    fedlc_tau: float = Field(1.0, ge=0, le=10, description="τ of FedLC's margins τ·n^(−1/4)")
    alignment: Literal["leave-self-out", "boda-paper"] = "leave-self-out"
    alignment_weight: float = Field(0.0, ge=0, le=10, description="w2; off, see docs/results.md")
    alignment_warmup: float = Field(0.15, ge=0, le=1, description="share of the rounds before L2 starts")
    alignment_temperature: float = Field(0.15, gt=0, le=10, description="T")
    alignment_exponent: float = Field(0.5, ge=0, le=2, description="ν")
    alignment_min_cells: int = Field(50, ge=1, description="n_min: cells of other clinics an anchor needs")
    guide_weight: float = Field(0.5, ge=0, le=10, description="w3")
    proximal_weight: float = Field(0.0, ge=0, le=10, description="μ, FedProx")

    def aligns(self, round_number: int, rounds: int) -> bool:
        """Whether L2 counts in a round (from 1): the first `alignment_warmup` share of the rounds goes without."""
        # The tolerance mends products such as 0.07·100 = 7.000000000000001, which would cost one round more.
        warm_up_rounds = math.ceil(self.alignment_warmup * rounds - 1e-9)
        return self.alignment_weight > 0 and round_number > warm_up_rounds
