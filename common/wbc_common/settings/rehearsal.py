"""Where a plan can rehearse in-silico cells (`training.rehearsal`), and what it does where it does not say."""

from typing import TYPE_CHECKING, Any

from wbc_common.settings.reading import table_of, with_defaults

if TYPE_CHECKING:
    from wbc_common.study import StudyConfig


def with_rehearsal_where_it_fits(plan: dict[str, Any]) -> dict[str, Any]:
    """A plan's values with rehearsal off where it cannot be and the plan does not ask for it."""
    images, loss, privacy = (table_of(plan, name) for name in ("images", "loss", "privacy"))
    reasons = _reasons_against(
        framing=images.get("framing", "nucleus"),
        white_balance=images.get("white_balance", True),
        alignment=loss.get("alignment"),
        privacy=privacy.get("mode", "none"),
    )
    return with_defaults(plan, "training", rehearsal=0.0) if reasons else plan


def rehearsal_contradictions(study: "StudyConfig") -> list[str]:
    """Why a plan that rehearses cannot; empty where it can."""
    if not study.training.rehearsal:
        return []
    return _reasons_against(
        framing=study.images.framing,
        white_balance=study.images.white_balance,
        alignment=study.loss.alignment,
        privacy=study.privacy.mode,
    )


def _reasons_against(*, framing: object, white_balance: object, alignment: object, privacy: object) -> list[str]:
    found = []
    if framing != "nucleus" or white_balance is False:
        found.append(
            "training.rehearsal needs cells prepared as the in-silico ones are: set it to 0, or images.framing = "
            "'nucleus' and images.white_balance = true"
        )
    if alignment == "boda-paper":
        found.append(
            "training.rehearsal adds cells of no domain, for which loss.alignment = 'boda-paper' has no prototypes: "
            "set it to 0"
        )
    if privacy != "none":
        found.append(
            "training.rehearsal has no part in privacy.mode = 'dp-sgd', whose batches are drawn from the clinic's own "
            "cells: set it to 0"
        )
    return found
