"""The live display of a running study: rounds with time left, each clinic's loss, macro-F1 so far.

It listens to `wbc_server.events` as a logging handler. Without a terminal it prints one plain line a round instead.
"""

import logging
import math
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from wbc_server.events import Cautioned, ClinicTrained, Event, ReplyRefused, RoundFinished, StudyStarted

_SHOWN = 20  # clinics; more would not fit a terminal


class StudyDisplay(logging.Handler):
    """A context in which the events of a study are shown on a console."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console
        self._level_before = logging.NOTSET
        self._losses: dict[str, float] = {}
        self._scores = "macro-F1 comes with the first round"
        self._progress = Progress(
            TextColumn("round"),
            MofNCompleteColumn(),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("elapsed,"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
        )
        self._task = self._progress.add_task("rounds", total=None)
        self._live = Live(self._picture(), console=console, transient=True, auto_refresh=False)

    def __enter__(self) -> Self:
        logger = logging.getLogger("wbc_server.events")
        logger.addHandler(self)
        self._level_before = logger.level
        logger.setLevel(logging.INFO)
        logger.propagate = False
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        logger = logging.getLogger("wbc_server.events")
        logger.removeHandler(self)
        logger.setLevel(self._level_before)
        logger.propagate = True
        self._live.stop()

    def emit(self, record: logging.LogRecord) -> None:
        """Show one event."""
        event: Event | None = getattr(record, "event", None)
        if isinstance(event, StudyStarted):
            self._progress.update(self._task, total=event.rounds, completed=event.first_round - 1)
            self._losses = dict.fromkeys(event.clinics, math.nan)
        elif isinstance(event, ClinicTrained):
            self._losses[event.clinic] = event.loss
        elif isinstance(event, RoundFinished):
            self._progress.update(self._task, completed=event.round_number)
            self._scores = _scores(event)
        self._show(event)

    def _show(self, event: Event | None) -> None:
        if self.console.is_terminal:
            if isinstance(event, ReplyRefused | Cautioned):
                self.console.print(str(event), style="yellow", markup=False)
            self._live.update(self._picture(), refresh=True)
        elif not isinstance(event, ClinicTrained):
            self.console.print(str(event), markup=False, highlight=False)

    def _picture(self) -> Group:
        table = Table(box=None, padding=(0, 2))
        table.add_column("clinic")
        table.add_column("loss", justify="right")
        for clinic, loss in list(self._losses.items())[:_SHOWN]:
            table.add_row(clinic, "held out or not yet" if math.isnan(loss) else f"{loss:.3f}")
        if len(self._losses) > _SHOWN:
            table.add_row(f"and {len(self._losses) - _SHOWN} more", "")
        return Group(self._progress, self._scores, table)


def _scores(event: RoundFinished) -> str:
    def text(value: float) -> str:
        return "–" if math.isnan(value) else f"{value:.3f}"

    return f"macro-F1: validation {text(event.validation_macro_f1)}, held out {text(event.held_out_macro_f1)}"
