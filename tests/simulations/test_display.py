"""The live display: plain lines into a file, a picture on a terminal, and no trace once it is gone."""

import io
import logging
import math
import re

import pytest
from rich.console import Console

from wbc_server.events import ClinicTrained, Event, ReplyRefused, RoundFinished, StudyFinished, StudyStarted, announce
from wbc_simulations.display import StudyDisplay

EVENTS: list[Event] = [
    StudyStarted(1, 2, ("east", "north", "west")),
    ClinicTrained(1, "east", 1.234),
    ClinicTrained(1, "north", 2.5),
    RoundFinished(1, 2, 0.25, 0.125, 3.0),
    ClinicTrained(2, "east", 1.0),
    ReplyRefused(2, "north", "update", "norm [1e9] too large"),
    RoundFinished(2, 2, 0.5, math.nan, 3.0),
    StudyFinished("model of round 2"),
]


def shown(*, terminal: bool, events: list[Event] = EVENTS) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=100, record=True)
    with StudyDisplay(console):
        for event in events:
            announce(event)
    return stream.getvalue()


def without_colours(picture: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", picture)


def test_without_a_terminal_there_is_one_plain_line_a_round() -> None:
    lines = shown(terminal=False).splitlines()
    assert lines == [str(event) for event in EVENTS if not isinstance(event, ClinicTrained)]
    assert sum(line.startswith("round 1 of 2 done") for line in lines) == 1
    assert "\x1b" not in "".join(lines)


def test_on_a_terminal_losses_scores_and_rounds_are_shown() -> None:
    picture = without_colours(shown(terminal=True))
    assert "1.234" in picture
    assert "2.500" in picture
    assert "validation 0.250, held out 0.125" in picture
    assert "validation 0.500, held out –" in picture
    assert "2/2" in picture
    assert "held out or not yet" in picture  # west never trains


def test_a_refusal_is_shown_word_for_word_whatever_it_holds() -> None:
    assert "round 2: north's update refused: norm [1e9] too large" in without_colours(shown(terminal=True))
    assert "norm [1e9] too large" in shown(terminal=False)


def test_a_resumed_study_starts_its_bar_where_it_stopped() -> None:
    assert "3/9" in without_colours(shown(terminal=True, events=[StudyStarted(4, 9, ("east",))]))


def test_without_a_single_event_nothing_breaks() -> None:
    assert shown(terminal=False, events=[]) == ""
    shown(terminal=True, events=[])


def test_the_log_is_as_before_when_the_display_is_gone() -> None:
    logger = logging.getLogger("wbc_server.events")
    before = (logger.level, list(logger.handlers), logger.propagate)
    console = Console(file=io.StringIO(), force_terminal=True)
    with pytest.raises(KeyboardInterrupt), StudyDisplay(console):
        raise KeyboardInterrupt
    assert (logger.level, logger.handlers, logger.propagate) == before
