"""Events: one log line each, with the facts attached for whoever listens."""

import logging

import pytest

from wbc_server.events import ClinicTrained, Event, ReplyRefused, RoundFinished, StudyFinished, StudyStarted, announce


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (StudyStarted(3, 9, ("east", "west")), "study starts at round 3 of 9 with east, west"),
        (ClinicTrained(2, "east", 0.123456), "round 2: east trained, loss 0.1235"),
        (ReplyRefused(2, "east", "update", "too long"), "round 2: east's update refused: too long"),
        (
            RoundFinished(2, 9, 0.5, float("nan"), 1.25),
            "round 2 of 9 done in 1.2 s: macro-F1 validation 0.500, held out nan",
        ),
        (StudyFinished("model of round 4"), "study finished; exported is the model of round 4"),
    ],
)
def test_each_event_is_one_line_and_carries_itself(caplog: pytest.LogCaptureFixture, event: Event, line: str) -> None:
    with caplog.at_level(logging.INFO, logger="wbc_server.events"):
        announce(event)
    (record,) = caplog.records
    assert record.getMessage() == line
    assert record.event is event  # type: ignore[attr-defined]


def test_a_refusal_is_a_warning_and_the_rest_is_not(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="wbc_server.events"):
        announce(ReplyRefused(1, "east", "update", "50 % too long"))
        announce(StudyFinished("model of round 1"))
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.INFO]
