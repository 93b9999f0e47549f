"""What a clinic states about its training is kept and shown, so it must be numbers that training gives."""

import math
from typing import Any

import numpy as np
import pytest

from wbc_common.errors import UpdateRefused
from wbc_common.study import PrivacySettings
from wbc_common.wire import Update
from wbc_server.record.statement_gate import check_statements

PLAIN, PRIVATE = PrivacySettings(), PrivacySettings(mode="dp-sgd")
LOSSES = {"loss": 1.5, "classification": 1.0, "alignment": 0.25, "guide": 0.25}


def states(**values: Any) -> Update:
    usual = {"losses": LOSSES, "num_cells": 6, "seconds": 0.5}
    return Update({}, np.ones(5), **{**usual, **values})


def test_what_our_own_clinics_state_passes() -> None:
    check_statements(states(), PLAIN)
    check_statements(states(losses={}, epsilon=0.0), PRIVATE)


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf, 1.7e308, -1.1e6])
def test_a_loss_that_no_chart_can_hold_is_refused(loss: float) -> None:
    with pytest.raises(UpdateRefused, match=r"guide is .*, expected a number up to ±1e\+06"):
        check_statements(states(losses={**LOSSES, "guide": loss}), PLAIN)


def test_losses_of_other_names_are_refused_without_repeating_them() -> None:
    with pytest.raises(UpdateRefused, match="2 losses without a known name") as caught:
        check_statements(states(losses={**LOSSES, "patient-17\n": 1.0, "x" * 10_000: 1.0}), PLAIN)
    assert "patient" not in caught.value.problem


@pytest.mark.parametrize("epsilon", [None, math.nan, math.inf, -0.1])
def test_under_dp_sgd_an_epsilon_is_a_finite_number_from_0(epsilon: float | None) -> None:
    with pytest.raises(UpdateRefused, match="ε is"):
        check_statements(states(losses={}, epsilon=epsilon), PRIVATE)


def test_without_dp_sgd_nobody_spends_an_epsilon() -> None:
    with pytest.raises(UpdateRefused, match="the plan spends none"):
        check_statements(states(epsilon=1.0), PLAIN)


@pytest.mark.parametrize(
    "values", [{"seconds": math.nan}, {"seconds": -1.0}, {"num_cells": -1}, {"num_cells": 10**300}]
)
def test_time_and_cells_are_finite_and_not_negative(values: dict[str, Any]) -> None:
    with pytest.raises(UpdateRefused, match=r"training took|trained on"):
        check_statements(states(**values), PLAIN)
