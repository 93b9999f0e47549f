"""[privacy]: record-level differential privacy of local training (docs/method.md §7)."""

from typing import Any, Literal

from pydantic import Field

from wbc_common.settings.reading import Settings, table_of, with_defaults

_TRAINING: dict[str, Any] = {"batch_size": 256, "learning_rate": 3e-4}  # chosen in silico, docs/results.md


def with_private_training(plan: dict[str, Any]) -> dict[str, Any]:
    """A plan's values with the batches and the learning rate for DP-SGD, where it trains so and names none itself.

    Adam divides a step by the size of its gradients, noise and all: what is clipped and noised moves the network as far
    as what is not, and at the usual rate away from what its start knew.
    """
    is_private = table_of(plan, "privacy").get("mode") == "dp-sgd"
    return with_defaults(plan, "training", **_TRAINING) if is_private else plan


class PrivacySettings(Settings):
    """DP-SGD at every training clinic (Abadi et al. 2016), each with a budget of its own.

    Attributes:
        mode: `dp-sgd` clips and noises the gradients of the model updates. It covers nothing else that leaves.
        epsilon, delta: the budget of one clinic over the whole study; one round that would exceed it is refused there.
        clip_norm: largest L2 norm of one cell's gradient.
        noise_multiplier: σ, noise over clip_norm; `auto` takes the smallest that keeps the planned rounds within the
            budget.
        accountant: Rényi (`rdp`), or the tighter numerical `prv`.
    """

    mode: Literal["none", "dp-sgd"] = "none"
    epsilon: float = Field(8.0, gt=0, le=1000)
    delta: float = Field(1e-5, gt=0, lt=1)
    clip_norm: float = Field(1.0, gt=0, le=1e6)
    noise_multiplier: Literal["auto"] | float = "auto"
    accountant: Literal["rdp", "prv"] = "rdp"
