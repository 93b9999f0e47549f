"""What a clinic counts when it measures a model: confusions, and where asked calibration bins and its personal head."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from wbc_client.clinic import Clinic
from wbc_client.dataset.cell_set import CellSet
from wbc_client.evaluation.calibration import correct_prior_shift, count_calibration
from wbc_client.evaluation.counting import count
from wbc_client.evaluation.prediction import predict_finished
from wbc_client.features import predict
from wbc_client.personal import fit_personal_head, keep_head
from wbc_client.state.draw_seed import bootstrap_seed
from wbc_client.training.virtual_stains import VirtualStains
from wbc_common.confusion import confusion_matrix
from wbc_common.errors import MessageError
from wbc_common.models import Network
from wbc_common.wire import Arrays, CalibrationRequest, Evaluation, Task


def measure(clinic: Clinic, cells: CellSet, task: Task, arrays: Arrays) -> Evaluation:
    """Counts of the received model on some of this clinic's cells."""
    settings = clinic.study.evaluation
    logits, predicted = _predicted(clinic, clinic.model(arrays), cells, is_final=task.averaged)
    replicates = min(task.replicates, settings.bootstrap_replicates)
    draw_seed = bootstrap_seed(clinic.site.state_dir) if replicates else 0
    found = count(predicted, cells, replicates=replicates, draw_seed=draw_seed)
    if task.calibration is None or not settings.calibration:
        return found
    return _with_calibration(found, logits, cells, task.calibration)


def measure_personal_head(
    clinic: Clinic, training: CellSet, cells: CellSet, arrays: Arrays, stains: VirtualStains | None
) -> NDArray[np.int64]:
    """Fit this clinic's own head to its training cells, keep it here, and count its confusions [C, C] on `cells`."""
    model, name = clinic.model(arrays), clinic.site.clinic
    fit_personal_head(model, training, clinic.study, clinic=name, stains=stains)
    keep_head(model, clinic.site.state_dir, clinic.study)
    _, predicted = _predicted(clinic, model, cells, is_final=True)
    return count(predicted, cells, replicates=0, draw_seed=0).confusion


def _predicted(clinic: Clinic, model: Network, cells: CellSet, *, is_final: bool) -> tuple[Tensor, Tensor]:
    """Logits [N, C], of each cell by itself, and classes [N]; rounds look once at a cell and not at its neighbours."""
    if is_final:
        settings = clinic.study.evaluation
        return predict_finished(model, cells.images, clinic.device, settings, precision=clinic.precision)
    logits = predict(model, cells.images, clinic.device, precision=clinic.precision)
    return logits, logits.argmax(dim=1)


def _with_calibration(found: Evaluation, logits: Tensor, cells: CellSet, wish: CalibrationRequest) -> Evaluation:
    """Counts in bins of the exact cells; the case mix behind `shifted` is estimated from all cells, without labels."""
    if wish.source_prior.shape != (logits.shape[1],):
        raise MessageError("a source prior of another number of classes", remedy="run the same version at both sides")
    exact = cells.exact
    true, corrected = cells.labels[exact].numpy(), correct_prior_shift(logits, wish.source_prior)[exact].numpy()
    return replace(
        found,
        calibration=count_calibration(logits[exact], cells.labels[exact], wish.temperature),
        shifted=confusion_matrix(true, corrected, logits.shape[1]),
    )
