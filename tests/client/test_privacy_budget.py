"""The clinic's privacy budget: composition as Opacus computes it, on disk before training, a hard stop at ε."""

import json
from pathlib import Path

import numpy as np
import pytest

from wbc_client.state.privacy_budget import BUDGET_NAME, Spending, epsilon_of, plan_spending, spend
from wbc_common.errors import BudgetSpent, DataError
from wbc_common.study import PrivacySettings

DP = PrivacySettings(mode="dp-sgd", epsilon=3.0, noise_multiplier=1.0)
ROUND = Spending(noise_multiplier=1.0, sample_rate=0.05, steps=20)


def test_a_round_is_as_many_draws_of_a_batch_as_pass_over_the_cells_once_per_epoch() -> None:
    spending = plan_spending(DP, num_cells=640, batch_size=32, epochs=2, rounds=5)
    assert spending == Spending(1.0, 0.05, 40)


def test_a_batch_larger_than_the_clinic_takes_every_cell() -> None:
    assert plan_spending(DP, num_cells=10, batch_size=32, epochs=3, rounds=1) == Spending(1.0, 1.0, 3)


def test_automatic_noise_spends_the_budget_over_the_planned_rounds_and_not_more() -> None:
    settings = PrivacySettings(mode="dp-sgd", epsilon=3.0)
    spending = plan_spending(settings, num_cells=640, batch_size=32, epochs=1, rounds=10)
    assert 2.9 < epsilon_of([spending] * 10, settings) <= 3.0
    assert epsilon_of([spending] * 11, settings) > 3.0


def test_epsilon_of_one_step_on_all_cells_is_that_of_the_gaussian_mechanism() -> None:
    """RDP of the Gaussian mechanism is α/(2σ²); its conversion (Balle et al. 2020) is minimised over a fine grid."""
    sigma, delta = 4.0, 1e-5
    alphas = np.linspace(1.01, 200, 200_000)
    expected = (alphas / (2 * sigma**2) - (np.log(delta) + np.log(alphas)) / (alphas - 1) + np.log1p(-1 / alphas)).min()
    found = epsilon_of([Spending(sigma, 1.0, 1)], PrivacySettings(mode="dp-sgd", delta=delta))
    assert found == pytest.approx(expected, rel=0.01)


def test_the_tighter_accountant_states_less_for_the_same_steps() -> None:
    tight = PrivacySettings(mode="dp-sgd", accountant="prv")
    assert 0 < epsilon_of([ROUND], tight) < epsilon_of([ROUND], DP)


def test_nothing_is_spent_before_the_first_round() -> None:
    assert epsilon_of([], DP) == 0


def test_rounds_add_up_in_the_file_and_survive_a_new_process(tmp_path: Path) -> None:
    assert spend(tmp_path, "plan", ROUND, DP) == pytest.approx(epsilon_of([ROUND], DP))
    assert spend(tmp_path, "plan", ROUND, DP) == pytest.approx(epsilon_of([ROUND] * 2, DP))
    assert len(json.loads((tmp_path / BUDGET_NAME).read_text())["plan"]) == 2


def test_a_round_beyond_the_budget_is_refused_and_not_entered(tmp_path: Path) -> None:
    small = PrivacySettings(mode="dp-sgd", epsilon=1.01 * epsilon_of([ROUND] * 2, DP))
    spend(tmp_path, "plan", ROUND, small)
    spend(tmp_path, "plan", ROUND, small)
    with pytest.raises(BudgetSpent, match="would bring the privacy budget to ε = "):
        spend(tmp_path, "plan", ROUND, small)
    assert len(json.loads((tmp_path / BUDGET_NAME).read_text())["plan"]) == 2


def test_another_plan_has_a_budget_of_its_own(tmp_path: Path) -> None:
    spend(tmp_path, "one", ROUND, DP)
    assert spend(tmp_path, "other", ROUND, DP) == pytest.approx(epsilon_of([ROUND], DP))


@pytest.mark.parametrize("content", ["{", "[]", '{"plan": [{"sigma": 1}]}', '{"plan": 3}'])
def test_a_damaged_file_stops_training(tmp_path: Path, content: str) -> None:
    (tmp_path / BUDGET_NAME).write_text(content)
    with pytest.raises(DataError, match="is damaged: what was spent cannot be told"):
        spend(tmp_path, "plan", ROUND, DP)
