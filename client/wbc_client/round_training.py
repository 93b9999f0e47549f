"""How a clinic trains in a round: which of the ways of training the plan asks for in that round."""

from wbc_client.boda_training import train_boda
from wbc_client.clinic import Clinic
from wbc_client.dataset.cell_set import CellSet
from wbc_client.head_training import train_head
from wbc_client.privacy_budget import plan_spending, spend
from wbc_client.private_training import train_privately
from wbc_client.training import train_locally
from wbc_client.virtual_stains import VirtualStains
from wbc_common.models import Network
from wbc_common.privacy import check_backbone, check_delta
from wbc_common.wire import Arrays, Task, Update


def train_round(clinic: Clinic, cells: CellSet, task: Task, arrays: Arrays, stains: VirtualStains | None) -> Update:
    """The update of one round: under DP-SGD, of the head alone, by centralised BoDA, or the usual one.

    Args:
        cells: training cells, N ≥ 1.
        arrays: the received model's.
        stains: of the federation, where the plan pools them.
    """
    study, name, number = clinic.study, clinic.site.clinic, task.round_number
    model = clinic.model(arrays)
    if study.privacy.mode == "dp-sgd":
        return _train_privately(clinic, model, cells, number)
    if study.trains_head_only(number):
        return train_head(model, cells, study, clinic=name, round_number=number, stains=stains)
    if study.loss.alignment == "boda-paper" and study.aligns(number):
        return train_boda(model, cells, study, clinic=name, round_number=number, stains=stains)
    sums = None if task.totals is None else (clinic.class_sums(arrays), task.totals)
    return train_locally(model, cells, study, clinic=name, round_number=number, sums=sums, stains=stains)


def _train_privately(clinic: Clinic, model: Network, cells: CellSet, round_number: int) -> Update:
    """Pay for the round first, then train; a budget that is spent stops it here."""
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
    return train_privately(model, cells, study, round_number=round_number, spending=spending, epsilon=epsilon)
