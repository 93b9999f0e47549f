"""Measuring a model on site: counts leave, predictions stay.

Cells with an exact label enter the confusion matrix. Cells with a coarse label cannot (their true row is unknown):
they are counted apart, with how often the prediction was one of the classes the label allows.
"""

import numpy as np
import torch

from wbc_client.dataset.cell_set import CellSet
from wbc_client.features import predict
from wbc_client.precision import Precision
from wbc_common.confusion import bootstrap_confusions, confusion_matrix, draw_group_weights
from wbc_common.models import Network
from wbc_common.wire import Evaluation


def evaluate(
    model: Network,
    cells: CellSet,
    device: torch.device,
    *,
    replicates: int,
    draw_seed: int,
    precision: Precision = "fp32",
) -> Evaluation:
    """Confusion counts of a model on a clinic's cells, with `replicates` bootstrap draws of patients.

    The draws depend on `draw_seed` and the cells alone, not on model, study or round: two models measured on the same
    cells are compared on the same draws (paired bootstrap, docs/method.md §5.5).
    """
    logits = predict(model, cells.images, device, precision=precision)
    return count(logits.argmax(dim=1), cells, replicates=replicates, draw_seed=draw_seed)


def count(predicted: torch.Tensor, cells: CellSet, *, replicates: int, draw_seed: int) -> Evaluation:
    """The counts of `evaluate` from the classes int64 [N] that the cells are predicted to be."""
    exact = cells.exact
    true, guess = cells.labels[exact].numpy(), predicted[exact].numpy()
    num_classes = cells.allowed.shape[1]
    _, groups = np.unique(cells.groups[exact].numpy(), return_inverse=True)
    draws = draw_group_weights(int(groups.max(initial=-1)) + 1, replicates, np.random.default_rng(draw_seed))
    return Evaluation(
        confusion=confusion_matrix(true, guess, num_classes),
        replicates=bootstrap_confusions(true, guess, groups, num_classes=num_classes, weights=draws),
        coarse=_count_coarse(cells, predicted),
    )


def _count_coarse(cells: CellSet, predicted: torch.Tensor) -> np.ndarray:
    coarse = ~cells.exact
    right = cells.allowed[coarse].gather(1, predicted[coarse][:, None])
    return np.array([int(coarse.sum()), int(right.sum())], dtype=np.int64)
