"""The privacy budget of a clinic: what every round of a plan spent, in a file at the site, and a hard stop at ε.

A round's spending is on disk before its training starts, so that a crash or a restart in between costs budget and never
loses track of it. Composition is Opacus's accountant over all that was ever spent on this plan: a round that is trained
again after a resumed run is paid for again. Plans are kept apart by their hash; budgets over several plans on the same
cells are not added up here.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from wbc_common.errors import BudgetSpent, DataError
from wbc_common.files import write_atomically
from wbc_common.study import PrivacySettings

BUDGET_NAME = "privacy.json"
_TOLERANCE = 1e-6  # relative: the accountant sums floats


@dataclass(frozen=True)
class Spending:
    """Steps of DP-SGD: noise multiplier σ, sampling rate q (each cell's chance to be in a batch), number of steps."""

    noise_multiplier: float
    sample_rate: float
    steps: int


def plan_spending(settings: PrivacySettings, *, num_cells: int, batch_size: int, epochs: int, rounds: int) -> Spending:
    """One round's spending at a clinic of `num_cells` training cells; σ such that all `rounds` fit in the budget."""
    sample_rate = min(1.0, batch_size / num_cells)
    steps = epochs * max(1, round(1 / sample_rate))
    noise = settings.noise_multiplier
    if noise == "auto":
        noise = _least_noise(settings, sample_rate, steps * rounds)
    return Spending(noise, sample_rate, steps)


@lru_cache(maxsize=64)
def _least_noise(settings: PrivacySettings, sample_rate: float, steps: int) -> float:
    from opacus.accountants.utils import get_noise_multiplier

    noise: float = get_noise_multiplier(
        target_epsilon=settings.epsilon,
        target_delta=settings.delta,
        sample_rate=sample_rate,
        steps=steps,
        accountant=settings.accountant,
        epsilon_tolerance=0.01 * settings.epsilon,
    )
    return noise


def epsilon_of(history: list[Spending], settings: PrivacySettings) -> float:
    """ε at the plan's δ of everything in `history`, by the plan's accountant; 0 for nothing."""
    if not history:
        return 0.0
    from opacus.accountants import create_accountant

    accountant = create_accountant(mechanism=settings.accountant)
    accountant.history = [(part.noise_multiplier, part.sample_rate, part.steps) for part in _merged(history)]
    return float(accountant.get_epsilon(delta=settings.delta))


def spend(folder: Path, plan: str, spending: Spending, settings: PrivacySettings) -> float:
    """Enter a round's spending into the clinic's file; it is on disk when this returns the ε spent so far.

    Args:
        folder: the clinic's state folder.
        plan: hash of the approved plan.

    Raises:
        BudgetSpent: the round would exceed ε; nothing is entered, and nothing may be trained.
        DataError: the file is damaged.
    """
    budgets = _read(folder)
    history = [Spending(**part) for part in budgets.get(plan, [])]
    total = epsilon_of([*history, spending], settings)
    if total > settings.epsilon * (1 + _TOLERANCE):
        raise BudgetSpent(
            f"this round would bring the privacy budget to ε = {total:.3f}, the plan allows {settings.epsilon:g} "
            f"(spent: {epsilon_of(history, settings):.3f})",
            remedy="end the study with the rounds it has; a larger budget is a new plan for this clinic to approve",
        )
    entries = [*history, spending]
    content = {**budgets, plan: [part.__dict__ for part in entries]}
    write_atomically(folder / BUDGET_NAME, json.dumps(content, indent=1).encode())
    return total


def _merged(history: list[Spending]) -> list[Spending]:
    """Equal steps counted together, which accountants compute much faster."""
    steps: dict[tuple[float, float], int] = {}
    for part in history:
        key = (part.noise_multiplier, part.sample_rate)
        steps[key] = steps.get(key, 0) + part.steps
    return [Spending(noise, rate, number) for (noise, rate), number in steps.items()]


def _read(folder: Path) -> dict[str, list[dict[str, Any]]]:
    path = folder / BUDGET_NAME
    if not path.exists():
        return {}
    try:
        values: dict[str, list[dict[str, Any]]] = json.loads(path.read_text(encoding="utf-8"))
        [Spending(**part) for history in values.values() for part in history]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f"privacy budget {path} is damaged: what was spent cannot be told",
            remedy="restore it from a backup; without it this clinic must not train under that plan again",
        ) from error
    return values
