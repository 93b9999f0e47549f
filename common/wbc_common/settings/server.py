"""[aggregation] and [evaluation]: the server's rule and step, and how the model is measured and chosen."""

from typing import Literal

from pydantic import Field

from wbc_common.settings.reading import Settings


class AggregationSettings(Settings):
    """The server's rule and step, docs/method.md §2.

    Attributes:
        rule: how clinics are weighed; `uniform` weighs each clinic the same.
        robust: an order statistic in place of the weighted mean. It needs every single update, so it is not additive
            over clinics, and it discards what one clinic alone knows: a caution says so at start and in the report.
        optimizer: what the server does with the mean change; `sgd` takes it as it is, times `step_size`.
    """

    rule: Literal["class-count-aware", "fedavg", "uniform"] = "class-count-aware"
    alpha: float = Field(0.5, ge=0, le=1, description="how much a rare class lifts the clinics that hold it")
    head_smoothing: float = Field(0.0, ge=0, description="λ: pulls a head row's weights towards FedAvg's")
    step_size: float = Field(1.0, gt=0, le=10, description="η")
    max_share: float = Field(1.0, gt=0, le=1, description="cap on one clinic's share of any weight")
    max_update_norm: float = Field(1e4, gt=0, description="an update with a larger L2 norm is refused")
    robust: Literal["none", "trimmed-mean", "krum"] = "none"
    trim_fraction: float = Field(0.2, ge=0, lt=0.5, description="share of clinics cut off at each end, by coordinate")
    krum_malicious: int = Field(0, ge=0, description="f: clinics that Krum expects to be malicious")
    optimizer: Literal["sgd", "fedavgm", "fedadam"] = "sgd"
    momentum: float = Field(0.9, ge=0, lt=1, description="β of FedAvgM, β₁ of FedAdam")
    second_momentum: float = Field(0.99, ge=0, lt=1, description="β₂ of FedAdam")
    adaptivity: float = Field(1e-3, gt=0, le=1, description="τ of FedAdam: the smaller, the more adaptive")


class EvaluationSettings(Settings):
    """How the model is measured and chosen; selection looks at training clinics' validation cells alone.

    Attributes:
        selection: which model is exported: the round that did best on validation cells, the last one, or `average`: the
            mean of the models of the last third of the rounds (SWA, Izmailov et al. 2018).
        prediction_prior: the case mix that logits are moved towards before they predict: `balanced` (plain logits,
            which macro-F1 rewards), `training` (the training federation's own), or class → share of a known one.
        prediction_tau: by how much, τ_p·log π. Plain logits of a loss adjusted by τ assume π^(1−τ): equal shares at
            τ = 1, half-way at 0.5, so that with `training` τ_p = τ predicts for the training federation's mix.
        stain_draws: predictions of the finished model are averaged over this many versions of each image beside itself,
            in other stains and turned or mirrored; 0 looks at the image once, as rounds do.
        together: the finished model predicts a clinic's cells together: those that it sees alike agree on a class
            (docs/method.md §5.7); otherwise each by itself, as in rounds. Probabilities stay each cell's own. On where
            the plan does not say, but for networks that start at random.
        calibration: let clinics send counts in shared bins of probability at the end (docs/method.md §5.4).
        coverage: of conformal sets, aimed at on the training clinics' validation cells.
    """

    every_rounds: int = Field(1, ge=1)
    selection: Literal["best-validation", "last", "average"] = "average"
    bootstrap_replicates: int = Field(500, ge=0, le=10_000)
    prediction_prior: Literal["balanced", "training"] | dict[str, float] = "balanced"
    prediction_tau: float = Field(1.0, ge=0, le=10)
    stain_draws: int = Field(7, ge=0, le=64)
    together: bool = True
    calibration: bool = True
    coverage: float = Field(0.9, gt=0, lt=1)
