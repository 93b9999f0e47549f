"""A clinic's class sums: told to the federation with one round's update, taken out of its totals in the next.

The totals that come with round t are of the model received in round t − 1, so this clinic's own part of them is what it
told then. It is kept on site: no clinic's own sums travel back.
"""

import logging

from wbc_client.clinic import Clinic
from wbc_client.dataset.cell_set import CellSet
from wbc_client.features import sum_features
from wbc_client.state.round_memory import keep, recall
from wbc_common.wire import Arrays, ClassSums, Task

log = logging.getLogger(__name__)
_WHAT = "class-sums"


def sums_to_share(clinic: Clinic, cells: CellSet, arrays: Arrays, round_number: int) -> ClassSums | None:
    """S_{k,c} and n_{k,c} of the training cells under the received model, kept; None where no one needs them."""
    study = clinic.study
    if not study.shares_sums(round_number):
        return None
    sums = sum_features(clinic.model(arrays), cells, clinic.device, precision=clinic.precision)
    kept = {"sums": sums.sums, "counts": sums.counts}
    keep(clinic.site.state_dir, _WHAT, kept, study_hash=study.hash, round_number=round_number)
    return sums


def own_share(clinic: Clinic, task: Task) -> ClassSums | None:
    """This clinic's part of the totals that came with a task; None without totals, or where it kept none."""
    if task.totals is None:
        return None
    kept = recall(clinic.site.state_dir, _WHAT, study_hash=clinic.study.hash, round_number=task.round_number - 1)
    if kept is None:
        log.warning("round %d: trains without alignment, own class sums are not here", task.round_number)
        return None
    return ClassSums(kept["sums"], kept["counts"])
