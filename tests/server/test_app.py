"""What the ServerApp says at start, and what it does not finish without."""

import logging

import numpy as np
import pytest

from wbc_common.study import parse_study
from wbc_server.app import tell_shares
from wbc_server.exchange.participation import Roster

STUDY = parse_study(
    {
        "name": "app",
        "clinics": {"train": ["east", "north"], "held_out": ["west"]},
        "aggregation": {"rule": "fedavg"},
    },
    "test",
)


def test_each_training_clinics_cells_and_weight_are_said_at_start(caplog: pytest.LogCaptureFixture) -> None:
    counts = {clinic: np.full((3, 5), cells) for clinic, cells in (("east", 6.0), ("north", 2.0), ("west", 9.0))}
    roster = Roster({"east": 1, "north": 2, "west": 3}, counts, ("east", "north"), ("west",))
    with caplog.at_level(logging.INFO, logger="wbc_server"):
        assert tell_shares(STUDY, roster) == {"east": 0.75, "north": 0.25}
    assert [record.getMessage() for record in caplog.records] == [
        "east declares 30 training cells: 75.0 % of the backbone's weight",
        "north declares 10 training cells: 25.0 % of the backbone's weight",
    ]
