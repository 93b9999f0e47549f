"""The parts of `metrics.json` that are figures: a rate with its interval, calibration, the privacy budget."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict


class Record(BaseModel):
    """A frozen part of the inputs."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Figure(Record):
    """A rate in 0..1 with its 95 % interval; None where it is not defined."""

    value: float | None = None
    low: float | None = None
    high: float | None = None


def _figure_or_empty(value: Any) -> Any:
    return {} if value is None else value


MaybeFigure = Annotated[Figure, BeforeValidator(_figure_or_empty)]


class PrivacyRecord(Record):
    """The budget of DP-SGD, and the ε that each training clinic stated last."""

    epsilon: float
    delta: float
    spent: dict[str, float] = {}


class BeforeAfter(Record):
    """A figure at temperature 1 and at the fitted one."""

    before: float | None = None
    after: float | None = None


class CalibrationFigures(Record):
    """How far a clinic's probabilities can be trusted."""

    cells: int = 0
    ece: BeforeAfter = BeforeAfter()
    nll: BeforeAfter = BeforeAfter()
    brier: BeforeAfter = BeforeAfter()
    aurc: BeforeAfter = BeforeAfter()
    coverage: MaybeFigure = Figure()
    mean_set_size: float | None = None
    prior_shift_corrected: dict[str, float | None] = {}


class CalibrationRecord(Record):
    """Calibration of the selected model; `clinics` holds None for a clinic without a cell."""

    temperature: float
    fitted_on_cells: int
    coverage_aimed: float
    clinics: dict[str, CalibrationFigures | None] = {}
