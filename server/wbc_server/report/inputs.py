"""The border: what a run left behind, checked once and frozen.

`metrics.json` holds the figures of the finished study, `rounds.jsonl` one line per round. A figure that is not defined
is null (or a bare NaN) there and None here. Keys that this report does not know are passed over: a newer run may carry
more than an older report shows.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import numpy as np
from pydantic import BaseModel, Field, ValidationError, model_validator

from wbc_common.confusion import Counts
from wbc_common.errors import DataError
from wbc_server.report.figures import CalibrationRecord, Figure, MaybeFigure, PrivacyRecord, Record

Model = TypeVar("Model", bound=BaseModel)
Matrix = tuple[tuple[int, ...], ...]
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


class ClassRecord(Record):
    """One class at one clinic."""

    name: str = Field(alias="class")
    support: float = 0
    recall: MaybeFigure = Figure()
    f1: float | None = None
    precision: float | None = None


class MeanRecord(Record):
    """Figures averaged over clinics."""

    macro_f1: MaybeFigure = Figure()
    balanced_accuracy: MaybeFigure = Figure()
    accuracy: MaybeFigure = Figure()
    rare_recall: MaybeFigure = Figure()


class PersonalRecord(Record):
    """A clinic's personal head on the cells of its evaluation."""

    macro_f1: float | None = None
    balanced_accuracy: float | None = None
    accuracy: float | None = None


class Evaluation(MeanRecord):
    """One clinic's test cells under the selected model."""

    confusion: Matrix
    blast_recall: MaybeFigure = Figure()
    worst_recall: float | None = None
    classes_present: int = 0
    per_class: tuple[ClassRecord, ...] = ()
    personal: PersonalRecord | None = None

    @property
    def counts(self) -> Counts:
        """The confusion matrix [C, C]."""
        return np.array(self.confusion, dtype=np.int64)


class Clinic(Record):
    """A clinic's role and its cells per split and class; counts are fractions where a label allows several classes."""

    role: Literal["train", "held-out"]
    class_counts: dict[Split, tuple[float, ...]] = Field(default={})

    def cells(self, *splits: Split) -> float:
        """Cells in those splits (all of them when none is named)."""
        return float(sum(sum(self.class_counts.get(split, ())) for split in splits or SPLITS))


class StudyRecord(Record):
    """What the study was."""

    name: str
    hash: str
    seed: int
    registry: str
    classes: tuple[str, ...] = Field(min_length=1)
    rounds: int
    method: dict[str, str | int | float | bool | None] = Field(default={})


class Refusal(Record):
    """A reply that did not count, or did not come."""

    clinic: str
    round: int | None = None
    stage: str = ""
    kind: str = ""
    reason: str = ""


class Metrics(Record):
    """metrics.json."""

    study: StudyRecord
    versions: dict[str, str | None] = Field(default={})
    seconds: float | None = None
    rounds_done: int = 0
    selected_round: int | None = None
    selection: str = ""
    clinics: dict[str, Clinic]
    rare_classes: tuple[str, ...] = ()
    held_out_planned: tuple[str, ...] = ()
    held_out: dict[str, Evaluation] = Field(default={})
    mean_held_out: MeanRecord | None = None
    in_domain: dict[str, Evaluation] = Field(default={})
    mean_in_domain: MeanRecord | None = None
    egress_bytes: dict[str, dict[str, int]] = Field(default={})
    refused: tuple[Refusal, ...] = ()
    cautions: tuple[str, ...] = ()
    privacy: PrivacyRecord | None = None
    calibration: CalibrationRecord | None = None

    @property
    def planned(self) -> tuple[str, ...]:
        """Held-out clinics of the plan, whether or not they gave a result, in name order."""
        took_part = [name for name, clinic in self.clinics.items() if clinic.role == "held-out"]
        return tuple(sorted({*self.held_out_planned, *took_part}))

    @model_validator(mode="after")
    def _one_number_of_classes(self) -> Self:
        expected = len(self.study.classes)
        for clinic, evaluation in [*self.held_out.items(), *self.in_domain.items()]:
            _require_square(evaluation.confusion, expected, clinic)
        for clinic, record in self.clinics.items():
            for split, counts in record.class_counts.items():
                if len(counts) != expected:
                    raise ValueError(f"{clinic}: {len(counts)} class counts in {split}, expected {expected}")
        return self


class TrainRecord(Record):
    """One clinic's training in one round."""

    loss: float | None = None
    cells: float | None = None
    seconds: float | None = None


class Round(Record):
    """One line of rounds.jsonl; matrices are absent where a round was not evaluated."""

    round: int
    train: dict[str, TrainRecord] = Field(default={})
    refused: tuple[str | Refusal, ...] = ()
    missing: tuple[str | Refusal, ...] = ()
    validation: dict[str, Matrix] | None = None
    held_out: dict[str, Matrix] | None = None


class Run(Record):
    """Everything the report is made from."""

    metrics: Metrics
    rounds: tuple[Round, ...]


def read_run(run_dir: Path) -> Run:
    """The checked inputs of a run.

    Raises:
        DataError: a file is missing, is not JSON, or does not hold what the report needs.
    """
    metrics = _checked(Metrics, _json(_text(run_dir / "metrics.json"), "metrics.json"), "metrics.json")
    lines = _text(run_dir / "rounds.jsonl").splitlines()
    rounds = tuple(_rounds(lines))
    for record in rounds:
        _check_matrices(record, len(metrics.study.classes))
    return Run(metrics=metrics, rounds=rounds)


def _rounds(lines: list[str]) -> Iterator[Round]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            origin = f"rounds.jsonl, line {number}"
            yield _checked(Round, _json(line, origin), origin)


def _check_matrices(record: Round, num_classes: int) -> None:
    for clinic, matrix in [*(record.validation or {}).items(), *(record.held_out or {}).items()]:
        try:
            _require_square(matrix, num_classes, clinic)
        except ValueError as error:
            raise DataError(f"rounds.jsonl, round {record.round}: {error}", remedy=_REMEDY) from error


def _require_square(matrix: Matrix, expected: int, clinic: str) -> None:
    if len(matrix) != expected or any(len(row) != expected for row in matrix):
        raise ValueError(f"{clinic}: a confusion matrix is not {expected} × {expected}")


_REMEDY = "write the report from an unchanged run folder, or run the study again"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise DataError(
            f"cannot read {path}: {why}; a report is made from metrics.json and rounds.jsonl",
            remedy="name the folder of a finished run; finish an interrupted one first",
        ) from error


def _json(text: str, origin: str) -> Any:
    try:
        return json.loads(text, parse_constant=lambda _: None)
    except json.JSONDecodeError as error:
        raise DataError(f"{origin} is not valid JSON: {error}", remedy=_REMEDY) from error


def _checked(model: type[Model], values: Any, origin: str) -> Model:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "its values"
        raise DataError(f"{origin}: {key}: {first['msg']} ({error.error_count()} in all)", remedy=_REMEDY) from error
