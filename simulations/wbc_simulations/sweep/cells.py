"""A sweep: every fold (`wbc_simulations.sweep.folds`) × seed × method, each method on a grid of settings.

Each cell of a sweep is an ordinary run folder, so that an interrupted sweep goes on where it stopped, a finished cell
is never run again, and every figure can be looked into. Beside the run, `cell.json` keeps how long it took, or why it
failed: a cell that failed is named, leaves the others alone, and is tried again by the next sweep.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from wbc_common.errors import SettingError, WbcError
from wbc_common.files import write_atomically
from wbc_common.study import StudyConfig
from wbc_server.run_folder import RunFolder
from wbc_simulations.experiment import Experiment, Method, plan_study, with_changes, with_method
from wbc_simulations.methods import on_grid
from wbc_simulations.running import EXPERIMENT_FILE, continue_run, holds_rounds
from wbc_simulations.sweep.clashes import refuse_clashes
from wbc_simulations.sweep.folds import Fold, folds_of
from wbc_simulations.sweep.same_run import cells_digest, same_plan

State = Literal["finished", "failed", "begun", "left"]
STATES: tuple[State, ...] = ("finished", "failed", "begun", "left")
RECORD_FILE = "cell.json"
_SLUG = str.maketrans({" ": "-", "+": "and", "/": "-", ",": None})


@dataclass(frozen=True)
class Cell:
    """One run of a sweep."""

    fold: Fold
    method: str
    seed: int
    experiment: Experiment
    study: StudyConfig

    def folder(self, output: Path) -> RunFolder:
        """Where this cell's run lies."""
        return RunFolder(output / str(self.fold) / self.method.translate(_SLUG) / f"seed-{self.seed}")

    def __str__(self) -> str:
        without = f" without {self.fold.without}" if self.fold.without else ""
        return f"{', '.join(self.study.clinics.held_out)} held out{without}, {self.method}, seed {self.seed}"


@dataclass(frozen=True)
class Record:
    """How the last attempt at a cell ended: `error` is None where it finished.

    Attributes:
        seconds: how long the whole cell took; None where it was gone on with, so that only a part is known.
        remedy: the next step, where the error has one.
        cells: what the run's cells were, see `cells_digest`; None in records of before there was one.
        version: of this package, that ran it.
    """

    error: str | None
    seconds: float | None
    remedy: str | None = None
    cells: str | None = None
    version: str | None = None

    @property
    def failure(self) -> str:
        """The error with its next step, in a line."""
        return f"{self.error}; next step: {self.remedy}" if self.remedy else f"{self.error}"

    def write(self, folder: RunFolder) -> None:
        """Keep it beside the run."""
        folder.path.mkdir(parents=True, exist_ok=True)
        write_atomically(folder.path / RECORD_FILE, json.dumps(asdict(self)).encode())


@dataclass(frozen=True)
class Filters:
    """Which part of a sweep, `folds` by the clinic that is held out; an empty one takes all."""

    folds: Sequence[str] = ()
    seeds: Sequence[int] = ()
    methods: Sequence[str] = ()


def plan_cells(experiment: Experiment, filters: Filters, changes: dict[str, Any]) -> list[Cell]:
    """Every run of a sweep, seeds outermost, so that a partial one is balanced.

    Raises:
        SettingError: a fold, seed or method is none of the experiment's, two methods share a folder, or the changes
            would make other runs of them than their names say.
    """
    methods = _methods(experiment, filters.methods)
    slugs = Counter(method.name.translate(_SLUG) for method in methods)
    twice = [method.name for method in methods if slugs[method.name.translate(_SLUG)] > 1]
    if twice:
        raise SettingError(f"these methods would share a folder: {'; '.join(twice)}", remedy="name one otherwise")
    folds = folds_of(with_changes(experiment, changes)[0], filters.folds)
    refuse_clashes(changes, methods, folds)
    return [
        _cell(experiment, fold, method, seed, changes)
        for seed in _seeds(experiment, filters.seeds)
        for fold in folds
        for method in methods
    ]


def _methods(experiment: Experiment, wanted: Sequence[str]) -> list[Method]:
    """The methods on the grid; one is meant by its whole name, or at all its points by the name before them."""
    on_points = on_grid(experiment.compare, experiment.sweep).methods
    bases = [method.name for method in experiment.compare.methods] or ["study"]
    named = [(method, {method.name, bases[place % len(bases)]}) for place, method in enumerate(on_points)]
    strangers = [name for name in wanted if not any(name in names for _, names in named)]
    if strangers:
        known = "; ".join(dict.fromkeys([*bases, *(method.name for method in on_points)]))
        raise SettingError(f"no method is called {', '.join(strangers)}", remedy=f"choose among {known}")
    return [method for method, names in named if not wanted or names & set(wanted)]


def _seeds(experiment: Experiment, wanted: Sequence[int]) -> tuple[int, ...]:
    known = experiment.compare.seeds
    strangers = sorted(set(wanted) - set(known))
    if strangers:
        raise SettingError(
            f"the experiment has no seed {', '.join(map(str, strangers))}",
            remedy=f"choose among {', '.join(map(str, known))}, or change [compare] seeds",
        )
    return tuple(seed for seed in known if not wanted or seed in wanted)


def _cell(experiment: Experiment, fold: Fold, method: Method, seed: int, changes: dict[str, Any]) -> Cell:
    variant, settings = with_changes(with_method(experiment, method), {**method.changes, **changes})
    changes = {"seed": seed, **settings}
    study = plan_study(variant, held_out=fold.clinics_held_out, without=fold.without, changes=changes)
    if not study.clinics.held_out:
        raise SettingError(
            "compare.hold_out = 'stated', and no clinic is held out",
            remedy='give a clinic role = "held-out", or leave hold_out out, which holds out each in turn',
        )
    return Cell(fold, method.name, seed, variant, study)


def state_of(cell: Cell, output: Path) -> State:
    """Where a cell stands.

    Raises:
        SettingError: its folder holds a run of another plan, of other data or on other cells.
    """
    folder, record = cell.folder(output), record_of(cell, output)
    if folder.study_file.exists():
        _check_same_run(cell, folder)
        _check_same_cells(cell, folder, record)
        if folder.is_finished:
            return "finished"
    if record.error is not None:
        return "failed"
    return "begun" if folder.study_file.exists() else "left"


def record_of(cell: Cell, output: Path) -> Record:
    """How the last attempt ended; nothing known where none was made, or where its record cannot be read."""
    try:
        values = json.loads((cell.folder(output).path / RECORD_FILE).read_text(encoding="utf-8"))
        later = {name: values.get(name) for name in ("remedy", "cells", "version")}
        return Record(error=values["error"], seconds=values["seconds"], **later)
    except (OSError, ValueError, KeyError, TypeError):
        return Record(None, None)


def _check_same_run(cell: Cell, folder: RunFolder) -> None:
    same = same_plan(cell.study, folder.study())
    if same and (folder.path / EXPERIMENT_FILE).exists():
        same = continue_run(folder)[0].data == cell.experiment.data
    if not same:
        raise SettingError(
            f"{folder.path} holds a run of another plan or of other data",
            remedy="choose another --output, or remove that folder",
        )


def _check_same_cells(cell: Cell, folder: RunFolder, record: Record) -> None:
    """A run that has kept no round may begin again on other cells: so a manifest that failed it can be mended."""
    if record.cells is None or not (folder.is_finished or holds_rounds(folder)):
        return
    if record.cells != cells_digest(cell.experiment, cell.study):
        raise SettingError(
            f"{folder.path} holds a run on other cells (by wbc-fl {record.version}): since then labels, patients, "
            "splits or images of its clinics have changed",
            remedy="choose another --output, or remove that folder and it is run again on the cells as they are",
        )


def refuse_failures(cells: Sequence[Cell], output: Path) -> None:
    """Check that no cell of a sweep failed.

    Raises:
        WbcError: naming each that did, with its error.
    """
    failed = [(cell, record_of(cell, output)) for cell in cells if state_of(cell, output) == "failed"]
    if failed:
        named = "".join(f"\n  {cell}: {record.failure}" for cell, record in failed)
        raise WbcError(
            f"{len(failed)} of {len(cells)} runs failed:{named}",
            remedy="mend the cause and give the same command: finished runs are kept, the others are tried again",
        )
