"""The last measurements of the selected model: what calibrates it on validation cells, and cells that had no part.

Validation cells of training clinics fit the temperature and the conformal threshold; after that, test cells of training
clinics and all cells of held-out ones are measured under both. Nothing is fitted to what is measured.
Who gave nothing that counts is named in the report; between hospitals a study does not end without a held-out clinic
that could still answer, since a finished one is not measured again.
"""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from flwr.app import Message
from flwr.serverapp import Grid
from numpy.typing import NDArray

from wbc_common.calibration import ONE, TEMPERATURES, conformal_bin, fit_temperature
from wbc_common.errors import ClinicAbsent, ConnectionFailure, UpdateRefused, WbcError
from wbc_common.stain_sums import StainSums
from wbc_common.study import StudyConfig
from wbc_common.wire import Arrays, CalibrationRequest, Evaluation, Task, decode_evaluation, encode_arrays, num_bytes
from wbc_server.events import ReplyRefused, announce
from wbc_server.exchange.participation import Roster, content_of, instruct, reason_of
from wbc_server.final.calibration_gate import check_calibration
from wbc_server.gate import check_evaluation, check_personal
from wbc_server.prediction import source_prior

Refusals = tuple[dict[str, Any], ...]  # as in the journal: round, clinic, stage, kind, reason


@dataclass(frozen=True)
class Measured:
    """What an exchange of the last measurements gave.

    Args:
        found: clinic → the evaluation that counts.
        sent_bytes: clinic → bytes of its answer.
        refused: answers that do not count, or did not come.
    """

    found: dict[str, Evaluation]
    sent_bytes: dict[str, int]
    refused: Refusals


@dataclass(frozen=True)
class Fitted:
    """What the training clinics' validation cells say about the model's probabilities.

    Args:
        place: of the temperature in TEMPERATURES.
        threshold_bin: the fine bin from which on a class enters the conformal set; None without a validation cell.
        num_cells: validation cells behind both.
        sent_bytes: clinic → bytes of its answer.
        refused: answers that do not count, or did not come.
    """

    place: int = ONE
    threshold_bin: int | None = None
    num_cells: int = 0
    sent_bytes: dict[str, int] = field(default_factory=dict)
    refused: Refusals = ()

    @property
    def temperature(self) -> float:
        """By which logits are divided."""
        return float(TEMPERATURES[self.place])


def fit_calibration(
    grid: Grid, study: StudyConfig, roster: Roster, arrays: Arrays, timeout_seconds: float
) -> Fitted | None:
    """The temperature with the least summed NLL, and the conformal threshold; None where the plan wants neither."""
    if not study.evaluation.calibration:
        return None
    task = Task("evaluate", study.hash, study.rounds, arrays, split="val", averaged=True)
    asked = {roster.train: _calibrated(task, study, roster, 1.0)}
    answers = _ask(grid, roster, asked, timeout_seconds, stage="calibration")
    found, sizes = answers.found.values(), answers.sent_bytes
    counts = [evaluation.calibration for evaluation in found if evaluation.calibration is not None]
    if sum(part.num_cells for part in counts) == 0:
        return Fitted(sent_bytes=sizes, refused=answers.refused)
    nll = np.sum([part.nll for part in counts], axis=0)
    true_class: NDArray[np.int64] = np.sum([part.positives[0].sum(axis=0) for part in counts], axis=0)
    threshold = conformal_bin(true_class, study.evaluation.coverage)
    return Fitted(fit_temperature(nll), threshold, int(true_class.sum()), sizes, answers.refused)


def measure(
    grid: Grid,
    study: StudyConfig,
    roster: Roster,
    arrays: Arrays,
    timeout_seconds: float,
    *,
    stain: StainSums | None = None,
    fitted: Fitted | None = None,
) -> Measured:
    """Evaluations by clinic: test cells of training clinics, all cells of held-out clinics, with bootstrap draws."""
    replicates = study.evaluation.bootstrap_replicates
    test = Task(
        "evaluate", study.hash, study.rounds, arrays, split="test", replicates=replicates, averaged=True, stain=stain
    )
    if fitted is not None:
        test = _calibrated(test, study, roster, fitted.temperature)
    asked = {roster.train: test, roster.held_out: replace(test, split="all")}
    return _ask(grid, roster, asked, timeout_seconds, stage="final evaluation")


def require_measured(measured: Measured, expected: AbstractSet[str]) -> None:
    """Refuse to end a study without the figures of held-out clinics that can still be had.

    Args:
        expected: held-out clinics that answered during the study.

    Raises:
        ConnectionFailure: naming those without a final evaluation.
    """
    missing = sorted(expected - measured.found.keys())
    if missing:
        raise ConnectionFailure(
            f"no final evaluation of the held-out clinics {', '.join(missing)}; a finished study is not measured again",
            remedy="look after these clinics, then wbc-server resume FOLDER measures again; to end the study without "
            "one of them, first wbc-server revoke FOLDER CLINIC",
        )


def _calibrated(task: Task, study: StudyConfig, roster: Roster, temperature: float) -> Task:
    prior = source_prior(study, roster.training_counts().sum(axis=0))
    return replace(task, calibration=CalibrationRequest(temperature, prior))


def _ask(
    grid: Grid, roster: Roster, asked: dict[tuple[str, ...], Task], timeout_seconds: float, *, stage: str
) -> Measured:
    """Evaluations that pass the gate, the bytes of every answer, and the refusals; `asked` are clinics → their task."""
    tasks = {clinic: task for clinics, task in asked.items() for clinic in clinics}
    found: dict[str, Evaluation] = {}
    sizes: dict[str, int] = {}
    faults: dict[str, WbcError] = {}
    for reply in grid.send_and_receive(_messages(asked, roster), timeout=timeout_seconds):  # which nothing else holds
        clinic = roster.clinic_of(reply.metadata.src_node_id)
        if clinic not in tasks or clinic in found:
            continue
        try:
            records = content_of(reply)
            sizes[clinic] = num_bytes(records)
            found[clinic] = _checked(decode_evaluation(records), tasks[clinic], roster, clinic)
        except WbcError as error:
            faults[clinic] = error
    silent = ClinicAbsent("no answer", remedy="look into the clinic's own log and its connection")
    missing = {clinic: faults.get(clinic, silent) for clinic in tasks if clinic not in found}
    refused = [_refusal(tasks[clinic].round_number, clinic, stage, error) for clinic, error in missing.items()]
    return Measured(found, sizes, tuple(refused))


def _messages(asked: dict[tuple[str, ...], Task], roster: Roster) -> list[Message]:
    model = encode_arrays(next(iter(asked.values())).model or {})  # the same in every task
    return [message for clinics, task in asked.items() for message in instruct(task, roster, clinics, model=model)]


def _refusal(round_number: int, clinic: str, stage: str, error: WbcError) -> dict[str, Any]:
    """A refusal as the journal has it, said in the log."""
    reason = reason_of(error)
    announce(ReplyRefused(round_number, clinic, stage, reason))
    return {"round": round_number, "clinic": clinic, "stage": stage, "kind": error.kind, "reason": reason}


def _checked(evaluation: Evaluation, task: Task, roster: Roster, clinic: str) -> Evaluation:
    num_cells, num_classes = roster.declared_cells(clinic, task.split), roster.class_counts[clinic].shape[1]
    check_evaluation(evaluation, num_cells, num_classes=num_classes)
    if len(evaluation.replicates) != task.replicates:  # means over clinics pair draw with draw
        raise UpdateRefused(
            f"{len(evaluation.replicates)} bootstrap draws, expected {task.replicates}",
            remedy="check that the clinic runs the approved plan and the same wbc-fl version as the coordinator",
        )
    check_personal(evaluation)
    if task.calibration is not None:
        check_calibration(evaluation)
    return evaluation
