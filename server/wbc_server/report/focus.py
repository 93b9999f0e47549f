"""Which clinics a page shows one by one: all of them, or of very many those where the model does worst.

A thousand confusion matrices are no report. Means, sums and the headline always speak of every clinic.
"""

from collections.abc import Set as AbstractSet
from typing import TypeVar

from wbc_server.report.inputs import Evaluation, Metrics, Run

Value = TypeVar("Value")
MOST = 12  # clinics of one role


def shown_clinics(metrics: Metrics) -> frozenset[str]:
    """Names to show: of each role all, or the `MOST` with the lowest macro-F1 (unmeasured ones first)."""
    names: set[str] = set()
    for role, evaluations in (("train", metrics.in_domain), ("held-out", metrics.held_out)):
        own = [name for name, clinic in metrics.clinics.items() if clinic.role == role]
        names.update(sorted(own, key=lambda name: (_macro_f1(evaluations.get(name)), name))[:MOST])
    return frozenset(names)


def only(run: Run, names: AbstractSet[str]) -> Run:
    """The run with per-clinic figures of those clinics alone; what is summed over clinics stays."""
    metrics = run.metrics.model_copy(
        update={
            "clinics": _of(run.metrics.clinics, names),
            "held_out": _of(run.metrics.held_out, names),
            "in_domain": _of(run.metrics.in_domain, names),
            "egress_bytes": _of(run.metrics.egress_bytes, names),
        }
    )
    rounds = tuple(
        record.model_copy(
            update={
                "train": _of(record.train, names),
                "validation": _of(record.validation or {}, names),
                "held_out": _of(record.held_out or {}, names),
            }
        )
        for record in run.rounds
    )
    return Run(metrics=metrics, rounds=rounds)


def note(metrics: Metrics, names: AbstractSet[str]) -> str:
    """What a reader must know of clinics that are not shown; nothing where all are."""
    hidden = len(metrics.clinics) - len(names)
    if not hidden:
        return ""
    return (
        f"{len(metrics.clinics):,} clinics took part. Tables and charts show the {MOST} of each role with the lowest "
        f"macro-F1; the other {hidden:,} are in metrics.json. Means and sums are over all of them."
    )


def _macro_f1(evaluation: Evaluation | None) -> float:
    value = evaluation.macro_f1.value if evaluation else None
    return -1.0 if value is None else value


def _of(values: dict[str, Value], names: AbstractSet[str]) -> dict[str, Value]:
    return {name: value for name, value in values.items() if name in names}
