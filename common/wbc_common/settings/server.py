"""[aggregation] and [evaluation]: the server's rule and step, and how the model is measured and chosen."""

from typing import Literal

from pydantic import Field

from wbc_common.settings.reading import Settings


class AggregationSettings(Settings):
    """The server's rule, docs/method.md §2."""

    rule: Literal["class-count-aware", "fedavg"] = "class-count-aware"
    alpha: float = Field(0.5, ge=0, le=1, description="how much a rare class lifts the clinics that hold it")
    head_smoothing: float = Field(0.5, ge=0, description="λ: pulls a head row's weights towards FedAvg's")
    step_size: float = Field(1.0, gt=0, le=10, description="η")
    max_share: float = Field(1.0, gt=0, le=1, description="cap on one clinic's share of any weight")
    max_update_norm: float = Field(1e4, gt=0, description="an update with a larger L2 norm is refused")


class EvaluationSettings(Settings):
    """How the model is measured and chosen; selection looks at training clinics' validation cells alone."""

    every_rounds: int = Field(1, ge=1)
    selection: Literal["best-validation", "last"] = "best-validation"
    bootstrap_replicates: int = Field(500, ge=0, le=10_000)
