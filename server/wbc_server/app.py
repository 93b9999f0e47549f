"""The ServerApp: call the roll, run the rounds that are left, measure the selected model, write what was found."""

import json
import logging
import threading
from typing import TYPE_CHECKING, cast

from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp

from wbc_common.files import write_atomically
from wbc_common.memory import hand_back_freed_memory
from wbc_common.models import build_model, model_arrays
from wbc_common.seeds import derive_seed
from wbc_common.study import StudyConfig
from wbc_common.weights import load_initial_weights
from wbc_common.wire import Arrays
from wbc_server.aggregation.weights import backbone_shares
from wbc_server.cautions import cautions, heavy_cautions
from wbc_server.events import Cautioned, StudyFinished, StudyStarted, announce
from wbc_server.exchange.attendance import AttendingGrid, await_clinics
from wbc_server.exchange.deployment import Deployment, read_deployment, sole_writer
from wbc_server.exchange.participation import Roster, call_roll
from wbc_server.final.calibration_summary import summarise_calibration
from wbc_server.final.draws import write_draws
from wbc_server.final.export import export_model
from wbc_server.final.measurement import Fitted, fit_calibration, measure, require_measured
from wbc_server.final.summary import egress, summarise
from wbc_server.prediction import check_counts, for_prediction
from wbc_server.privacy import check_privacy, privacy_spent
from wbc_server.record.round_book import RoundBook
from wbc_server.report import load_drawing, write_report
from wbc_server.run_folder import RunFolder, locate_run
from wbc_server.selection import name_export
from wbc_server.stain_pool import pool_stain
from wbc_server.strategy import WbcStrategy

if TYPE_CHECKING:
    from flwr.superlink.grid import HttpGrid

log = logging.getLogger(__name__)

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run, or go on with, the study in this run's folder."""
    folder = locate_run(context.run_config)
    deployment = read_deployment()
    if deployment is None:
        run_study(grid, folder)
        return
    hand_back_freed_memory()
    with sole_writer(folder):
        run_study(AttendingGrid(cast("HttpGrid", grid), deployment), folder, deployment)


def run_study(grid: Grid, folder: RunFolder, deployment: Deployment | None = None) -> None:
    """The study from its roll to its report; between hospitals only with the clinics of the register."""
    study = folder.study()
    seconds = 60 * study.participation.round_minutes
    roster = call_roll(grid, study, seconds, _nodes(grid, study, deployment))
    training_counts = {clinic: roster.class_counts[clinic][0] for clinic in roster.train}
    check_counts(study, training_counts)
    check_privacy(study, training_counts)
    book = RoundBook(folder, study, roster)
    said = [*cautions(study), *heavy_cautions(tell_shares(study, roster))]
    for caution in said:
        announce(Cautioned(caution))
    pool = pool_stain(grid, study, roster, folder, seconds)
    announce(StudyStarted(book.rounds_done + 1, study.rounds, tuple(roster.nodes)))
    _run_rounds(grid, WbcStrategy(study, roster, book, seconds, pool.totals))
    selected = book.selected_round
    arrays = for_prediction(book.load_selected(), study, roster.training_counts().sum(axis=0))
    fitted = fit_calibration(grid, study, roster, arrays, seconds)
    measured = measure(grid, study, roster, arrays, seconds, stain=pool.totals, fitted=fitted)
    require_measured(measured, expected_at_the_end(study, roster, book, deployment))
    records = [{"seconds": digest.seconds, "refused": digest.refused} for digest in book.digests]
    metrics = summarise(study, roster, records, measured.found, selected)
    metrics["refused"] += [*(fitted.refused if fitted else ()), *measured.refused]
    metrics["calibration"] = summarise_calibration(study, roster, measured.found, fitted)
    metrics["privacy"] = privacy_spent(study, book.epsilon)
    metrics["cautions"] = said
    sent = egress([{"egress": book.egress}], roster.described_bytes, measured.sent_bytes, pool.sent_bytes or {})
    metrics["egress_bytes"] = _with_validation(sent, fitted)
    export_model(folder, study, arrays, selected)
    write_draws(folder, measured.found)
    # metrics.json says that the run is finished, so it comes after what it stands for; the report reads it.
    write_atomically(folder.metrics, json.dumps(metrics, indent=1, allow_nan=False).encode())
    write_report(folder.path)
    announce(StudyFinished(name_export(selected, study.evaluation.selection)))


def tell_shares(study: StudyConfig, roster: Roster) -> dict[str, float]:
    """Training clinic → its share of the backbone's weight, which the log says beside the cells that give it."""
    counts = roster.training_counts()
    shares = dict(zip(roster.train, backbone_shares(counts, study.aggregation).tolist(), strict=True))
    for clinic, share in shares.items():
        cells = roster.declared_cells(clinic, "train")
        log.info("%s declares %d training cells: %.1f %% of the backbone's weight", clinic, cells, 100 * share)
    return shares


def expected_at_the_end(study: StudyConfig, roster: Roster, book: RoundBook, deployment: Deployment | None) -> set[str]:
    """Held-out clinics between hospitals that answered during the study and whose key was not revoked since."""
    if deployment is None:
        return set()
    answered = {*roster.held_out, *(clinic for clinic, sizes in book.egress.items() if "evaluation" in sizes)}
    return answered & set(study.clinics.held_out) & set(deployment.clinics().values())


def _run_rounds(grid: Grid, strategy: WbcStrategy) -> None:
    book, study = strategy.book, strategy.study
    left = study.rounds - book.rounds_done
    if left <= 0 and book.awaited_round is None:
        return
    strategy.take_up(book.load(book.rounds_done) if book.rounds_done else initial_model(study))
    if left > 0:
        threading.Thread(target=load_drawing).start()  # while clinics train, not after
        strategy.start(grid, ArrayRecord(), num_rounds=left, timeout=strategy.timeout_seconds)
    strategy.close(grid)


def _nodes(grid: Grid, study: StudyConfig, deployment: Deployment | None) -> dict[int, str] | None:
    if deployment is None:
        return None
    wanted = (*study.clinics.train, *study.clinics.held_out)
    return await_clinics(grid, deployment.clinics, wanted, 60 * study.participation.join_minutes)


def _with_validation(sent: dict[str, dict[str, int]], fitted: Fitted | None) -> dict[str, dict[str, int]]:
    """Bytes by clinic and kind, with those of the validation cells that calibrated the model."""
    for clinic, size in (fitted.sent_bytes if fitted else {}).items():
        kinds = sent.setdefault(clinic, {})
        kinds["evaluation"] = kinds.get("evaluation", 0) + size
    return sent


def initial_model(study: StudyConfig) -> Arrays:
    """The model before round 1: seeded by the study, or the weights it names."""
    model = build_model(study.model, study.head_rows, derive_seed(study.seed, "model"))
    load_initial_weights(model, study.model, study.images)
    return model_arrays(model)
