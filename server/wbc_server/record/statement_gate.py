"""The gate for what a clinic states about its training beside the update: losses, time, cells, ε.

Nothing is computed from it, but it is kept in the journal and shown in the report: a loss of 10³⁰⁸ fits on no chart's
axis, a NaN into no JSON, and free names into no file that others read.
"""

import math
from collections.abc import Iterator

from wbc_common.errors import UpdateRefused
from wbc_common.study import PrivacySettings
from wbc_common.wire import Update
from wbc_server.exchange.participation import MOST_CELLS

_LARGEST_LOSS = 1e6
_LOSSES = frozenset({"loss", "classification", "alignment", "guide"})  # LossTerms of wbc_client.losses
_REMEDY = "look at that clinic's loss and learning rate, and check that it runs the coordinator's version of wbc-fl"


def check_statements(update: Update, settings: PrivacySettings) -> None:
    """Refuse an update whose clinic states numbers that no training gives.

    Args:
        update: as decoded.
        settings: the study's `[privacy]`; only DP-SGD spends an ε.

    Raises:
        UpdateRefused: naming what was got and what was expected.
    """
    faults = [*_of_losses(update.losses), *_of_course(update), *_of_epsilon(update.epsilon, settings)]
    if faults:
        raise UpdateRefused(f"statements about training: {'; '.join(faults)}", remedy=_REMEDY)


def _of_losses(losses: dict[str, float]) -> Iterator[str]:
    unknown = len(losses.keys() - _LOSSES)
    if unknown:
        yield f"{unknown} losses without a known name, expected only {', '.join(sorted(_LOSSES))}"
    for name in sorted(losses.keys() & _LOSSES):
        if not abs(losses[name]) <= _LARGEST_LOSS:  # NaN too
            yield f"{name} is {losses[name]:g}, expected a number up to ±{_LARGEST_LOSS:g}"


def _of_course(update: Update) -> Iterator[str]:
    if not 0 <= update.seconds < math.inf:
        yield f"training took {update.seconds:g} seconds, expected a finite time"
    if not 0 <= update.num_cells <= MOST_CELLS:
        yield f"trained on {update.num_cells:g} cells, expected 0 to {MOST_CELLS:g}"


def _of_epsilon(epsilon: float | None, settings: PrivacySettings) -> Iterator[str]:
    if settings.mode == "none" and epsilon is not None:
        yield "an ε, but the plan spends none"
    if settings.mode == "dp-sgd" and not (epsilon is not None and 0 <= epsilon < math.inf):
        yield f"ε is {epsilon}, expected a finite number from 0"
