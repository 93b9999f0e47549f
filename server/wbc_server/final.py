"""The last measurement: the selected model on cells that had no part in training or selection."""

from dataclasses import replace

from flwr.serverapp import Grid

from wbc_common.errors import UpdateRefused, WbcError
from wbc_common.stain_sums import StainSums
from wbc_common.study import StudyConfig
from wbc_common.wire import Arrays, Evaluation, Task, decode_evaluation, num_bytes
from wbc_server.events import ReplyRefused, announce
from wbc_server.gate import check_evaluation
from wbc_server.participation import Roster, content_of, instruct


def measure(
    grid: Grid,
    study: StudyConfig,
    roster: Roster,
    arrays: Arrays,
    timeout_seconds: float,
    stain: StainSums | None = None,
) -> tuple[dict[str, Evaluation], dict[str, int]]:
    """Evaluations by clinic: test cells of training clinics, all cells of held-out clinics, with bootstrap draws.

    Returns:
        The evaluations that count, and the size in bytes of each clinic's answer.
    """
    replicates = study.evaluation.bootstrap_replicates
    test = Task("evaluate", study.hash, study.rounds, arrays, split="test", replicates=replicates, stain=stain)
    whole = replace(test, split="all")
    messages = [*instruct(test, roster, roster.train), *instruct(whole, roster, roster.held_out)]
    found: dict[str, Evaluation] = {}
    sizes: dict[str, int] = {}
    for reply in grid.send_and_receive(messages, timeout=timeout_seconds):
        clinic = roster.clinic_of(reply.metadata.src_node_id)
        if clinic is None or clinic in found:
            continue
        try:
            records = content_of(reply)
            sizes[clinic] = num_bytes(records)
            evaluation = _checked(decode_evaluation(records), study, roster, clinic)
        except WbcError as error:
            announce(ReplyRefused(study.rounds, clinic, "final evaluation", error.problem))
            continue
        found[clinic] = evaluation
    return found, sizes


def _checked(evaluation: Evaluation, study: StudyConfig, roster: Roster, clinic: str) -> Evaluation:
    num_cells = roster.declared_cells(clinic, "test" if clinic in roster.train else "all")
    check_evaluation(evaluation, num_cells, num_classes=len(study.classes))
    asked, got = study.evaluation.bootstrap_replicates, len(evaluation.replicates)
    if got != asked:  # means over clinics pair draw with draw
        raise UpdateRefused(
            f"{got} bootstrap draws, expected {asked}",
            remedy="check that the clinic runs the approved plan and the same wbc-fl version as the coordinator",
        )
    return evaluation
