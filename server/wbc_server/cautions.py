"""What a reader of a study must know: said at start, kept in metrics.json and the report.

Most follow from the plan; that one clinic outweighs all others follows from what clinics declare.
"""

from collections.abc import Mapping

from wbc_common.study import StudyConfig

_ORDER_STATISTIC = (
    "aggregation.robust = '{name}' is an order statistic: it discards what only a minority of clinics knows, such as "
    "the one clinic that holds a rare class, it ignores class counts, and no secure sum can compute it."
)

_PRIVACY = (
    "DP-SGD makes each training clinic's model updates private for single training cells, at ε = {epsilon:g} and "
    "δ = {delta:g} a clinic over the study. It does not cover class counts, confusion counts and calibration bins, "
    "which leave without noise, and protects a patient with several cells less."
)

_HALF = 0.5 + 1e-9  # two clinics of the same weight have half each, off by rounding
_HEAVY = (
    "By the cells it declared, {clinic} has {percent:.1f} % of the backbone's weight: it outweighs all other training "
    "clinics together. aggregation.max_share caps a clinic's share."
)


def cautions(study: StudyConfig) -> list[str]:
    """One or two sentences for each setting that needs them."""
    return [*_robust(study), *_privacy(study)]


def heavy_cautions(shares: Mapping[str, float]) -> list[str]:
    """A sentence where one of several training clinics has more than half of the backbone's weight.

    Args:
        shares: training clinic → its share.
    """
    heavy = [(clinic, share) for clinic, share in shares.items() if share > _HALF and len(shares) > 1]
    return [_HEAVY.format(clinic=clinic, percent=100 * share) for clinic, share in heavy]


def _robust(study: StudyConfig) -> list[str]:
    name = study.aggregation.robust
    return [] if name == "none" else [_ORDER_STATISTIC.format(name=name)]


def _privacy(study: StudyConfig) -> list[str]:
    settings = study.privacy
    return [] if settings.mode == "none" else [_PRIVACY.format(epsilon=settings.epsilon, delta=settings.delta)]
