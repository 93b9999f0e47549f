"""How a clinic trains in a round: which of the ways of training the plan asks for, and what of the model changed."""

import time
from dataclasses import dataclass

from wbc_client.clinic import Clinic
from wbc_client.dataset.cell_set import CellSet
from wbc_client.precision import Precision
from wbc_client.state.privacy_budget import plan_spending, spend
from wbc_client.training.boda import train_boda
from wbc_client.training.head_only import train_head
from wbc_client.training.local import train_locally
from wbc_client.training.private import train_privately
from wbc_client.training.virtual_stains import VirtualStains
from wbc_common.models import Network, model_arrays
from wbc_common.privacy import check_backbone, check_delta
from wbc_common.wire import Arrays, ClassSums, Task, Update


@dataclass(frozen=True)
class _Trained:
    """Mean loss terms of the last epoch, what was computed in, and the budget spent so far under DP-SGD."""

    losses: dict[str, float]
    precision: Precision
    epsilon: float | None = None


def train_round(
    clinic: Clinic, cells: CellSet, task: Task, arrays: Arrays, stains: VirtualStains | None, sums: ClassSums | None
) -> Update:
    """The update of one round: under DP-SGD, of the head alone, by centralised BoDA, or the usual one.

    Args:
        cells: training cells, N ≥ 1.
        arrays: the received model's.
        stains: of the federation, where the plan pools them.
        sums: this clinic's own part of the totals that came with the task; None leaves the alignment term out.
    """
    started = time.perf_counter()
    model = clinic.model(arrays)
    trained = _train(clinic, model, cells, task, stains, sums)
    return Update(
        delta=changes(model, arrays),
        class_counts=cells.class_counts(),
        losses=trained.losses,
        num_cells=len(cells),
        seconds=time.perf_counter() - started,
        epsilon=trained.epsilon,
        precision=trained.precision,
    )


def changes(model: Network, received: Arrays) -> Arrays:
    """After minus before, of what was free to change."""
    fixed = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return {key: value - received[key] for key, value in model_arrays(model).items() if key not in fixed}


def _train(
    clinic: Clinic, model: Network, cells: CellSet, task: Task, stains: VirtualStains | None, sums: ClassSums | None
) -> _Trained:
    study, name, number = clinic.study, clinic.site.clinic, task.round_number
    if study.privacy.mode == "dp-sgd":
        return _Trained({}, "fp32", _train_privately(clinic, model, cells, number))
    if study.trains_head_only(number):
        losses = train_head(model, cells, study, clinic=name, round_number=number, stains=stains)
    elif study.loss.alignment == "boda-paper" and study.aligns(number):
        losses = train_boda(model, cells, study, clinic=name, round_number=number, stains=stains)
    else:
        pair = None if task.totals is None or sums is None else (sums, task.totals)
        losses = train_locally(model, cells, study, clinic=name, round_number=number, sums=pair, stains=stains)
    return _Trained(losses, clinic.precision)


def _train_privately(clinic: Clinic, model: Network, cells: CellSet, round_number: int) -> float:
    """Pay for the round first, then train; a budget that is spent stops it here. Returns the ε spent so far."""
    study = clinic.study
    check_backbone(model.train(), study.model.backbone)
    check_delta(study.privacy, len(cells), clinic.site.clinic)
    spending = plan_spending(
        study.privacy,
        num_cells=len(cells),
        batch_size=study.training.batch_size,
        epochs=study.training.local_epochs,
        rounds=study.rounds,
    )
    epsilon = spend(clinic.site.state_dir, study.hash, spending, study.privacy)
    train_privately(model, cells, study, round_number=round_number, spending=spending)
    return epsilon
