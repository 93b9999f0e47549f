"""What a study says of itself while it runs: one log line per event, with the facts attached for a display.

Listeners (the simulation's progress display, later a coordinator's console) are ordinary logging handlers that look at
`record.event`. So the ServerApp needs to know nobody who watches it.
"""

import logging
from dataclasses import dataclass

log = logging.getLogger("wbc_server.events")
_NAMED = 12


@dataclass(frozen=True)
class StudyStarted:
    """The roll is called and the first round is next."""

    first_round: int
    rounds: int
    clinics: tuple[str, ...]

    def __str__(self) -> str:
        who = ", ".join(self.clinics) if len(self.clinics) <= _NAMED else f"{len(self.clinics)} clinics"
        return f"study starts at round {self.first_round} of {self.rounds} with {who}"


@dataclass(frozen=True)
class Cautioned:
    """A setting of the plan of which a reader must know (`wbc_server.cautions`)."""

    caution: str

    def __str__(self) -> str:
        return f"caution: {self.caution}"


@dataclass(frozen=True)
class ClinicTrained:
    """A clinic's update counted."""

    round_number: int
    clinic: str
    loss: float

    def __str__(self) -> str:
        return f"round {self.round_number}: {self.clinic} trained, loss {self.loss:.4f}"


@dataclass(frozen=True)
class ReplyRefused:
    """A clinic's reply does not count; the round goes on."""

    round_number: int
    clinic: str
    stage: str
    reason: str

    def __str__(self) -> str:
        return f"round {self.round_number}: {self.clinic}'s {self.stage} refused: {self.reason}"


@dataclass(frozen=True)
class RoundFinished:
    """A round is in the journal. Figures are NaN where they were not measured."""

    round_number: int
    rounds: int
    validation_macro_f1: float
    held_out_macro_f1: float
    seconds: float

    def __str__(self) -> str:
        return (
            f"round {self.round_number} of {self.rounds} done in {self.seconds:.1f} s: macro-F1 "
            f"validation {self.validation_macro_f1:.3f}, held out {self.held_out_macro_f1:.3f}"
        )


@dataclass(frozen=True)
class StudyFinished:
    """Metrics, model and report are written."""

    exported: str

    def __str__(self) -> str:
        return f"study finished; exported is the {self.exported}"


Event = StudyStarted | Cautioned | ClinicTrained | ReplyRefused | RoundFinished | StudyFinished


def announce(event: Event) -> None:
    """Log an event."""
    level = logging.WARNING if isinstance(event, ReplyRefused | Cautioned) else logging.INFO
    log.log(level, "%s", event, extra={"event": event})
