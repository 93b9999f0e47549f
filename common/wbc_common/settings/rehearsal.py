"""Where a plan can rehearse in-silico cells (`training.rehearsal`), and what it does where it does not say."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wbc_common.study import StudyConfig


def with_rehearsal_where_it_fits(plan: dict[str, Any]) -> dict[str, Any]:
    """A plan's values with rehearsal off where it cannot be and the plan does not ask for it."""
    training = plan.get("training", {})
    if not isinstance(training, dict) or "rehearsal" in training or not _cannot(plan):
        return plan
    return {**plan, "training": {**training, "rehearsal": 0.0}}


def _cannot(plan: dict[str, Any]) -> bool:
    images, loss, privacy = (_table(plan, name) for name in ("images", "loss", "privacy"))
    return (
        images.get("framing", "nucleus") != "nucleus"
        or images.get("white_balance", True) is False
        or loss.get("alignment") == "boda-paper"
        or privacy.get("mode", "none") != "none"
    )


def _table(plan: dict[str, Any], name: str) -> dict[str, Any]:
    table = plan.get(name)
    return table if isinstance(table, dict) else {}


def rehearsal_contradictions(study: "StudyConfig") -> list[str]:
    """Why a plan that rehearses cannot; empty where it can."""
    if not study.training.rehearsal:
        return []
    found = []
    if study.images.framing != "nucleus" or not study.images.white_balance:
        found.append(
            "training.rehearsal needs cells prepared as the in-silico ones are: set it to 0, or images.framing = "
            "'nucleus' and images.white_balance = true"
        )
    if study.loss.alignment == "boda-paper":
        found.append(
            "training.rehearsal adds cells of no domain, for which loss.alignment = 'boda-paper' has no prototypes: "
            "set it to 0"
        )
    if study.privacy.mode != "none":
        found.append(
            "training.rehearsal has no part in privacy.mode = 'dp-sgd', whose batches are drawn from the clinic's own "
            "cells: set it to 0"
        )
    return found
