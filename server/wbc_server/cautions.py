"""What a reader of a study must know because of its settings: said at start, kept in metrics.json and the report."""

from wbc_common.study import StudyConfig

_ORDER_STATISTIC = (
    "aggregation.robust = '{name}' is an order statistic: it discards what only a minority of clinics knows, such as "
    "the one clinic that holds a rare class, it ignores class counts, and no secure sum can compute it."
)


def cautions(study: StudyConfig) -> list[str]:
    """One or two sentences for each setting that needs them."""
    return _robust(study)


def _robust(study: StudyConfig) -> list[str]:
    name = study.aggregation.robust
    return [] if name == "none" else [_ORDER_STATISTIC.format(name=name)]
