"""What a reader of a study must know because of its settings: said at start, kept in metrics.json and the report."""

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


def cautions(study: StudyConfig) -> list[str]:
    """One or two sentences for each setting that needs them."""
    return [*_robust(study), *_privacy(study)]


def _robust(study: StudyConfig) -> list[str]:
    name = study.aggregation.robust
    return [] if name == "none" else [_ORDER_STATISTIC.format(name=name)]


def _privacy(study: StudyConfig) -> list[str]:
    settings = study.privacy
    return [] if settings.mode == "none" else [_PRIVACY.format(epsilon=settings.epsilon, delta=settings.delta)]
