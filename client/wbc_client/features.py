"""Passing stored cells through a network without training: features, predictions, class and stain sums.

Cells stay uint8 tensors; a batch becomes float on its way into the network, exactly as in training but not augmented.
Batches are small enough for a processor's cache.
"""

from collections.abc import Iterator
from functools import reduce
from operator import add

import numpy as np
import torch
from torch import Tensor

from wbc_client.dataset.cell_set import CellSet
from wbc_client.device import as_input
from wbc_client.losses import class_sums
from wbc_client.precision import Precision, computing_in
from wbc_common.appearance import normalise
from wbc_common.models import Network
from wbc_common.stain import stain_sums
from wbc_common.stain_sums import NUM_STATISTICS, StainSums
from wbc_common.wire import ClassSums

_BATCH = 64


def predict(model: Network, images: Tensor, device: torch.device, *, precision: Precision = "fp32") -> Tensor:
    """Logits float32 [N, C] on the CPU of images uint8 [N, 3, H, W]."""
    return predict_with_features(model, images, device, precision=precision)[0]


def predict_with_features(
    model: Network, images: Tensor, device: torch.device, *, precision: Precision = "fp32"
) -> tuple[Tensor, Tensor]:
    """Logits float32 [N, C] and features float32 [N, D], on the CPU, of images uint8 [N, 3, H, W]."""
    model.eval()
    logits, features = [torch.empty(0, model.rows.num_classes)], [torch.empty(0, model.head.in_features)]
    with torch.inference_mode():
        for batch in _batches(images, device):
            seen = _features(model, batch, precision)
            logits.append(model.classify(seen).cpu())
            features.append(seen.cpu())
    return torch.cat(logits), torch.cat(features)


def all_features(model: Network, images: Tensor, device: torch.device, *, precision: Precision = "fp32") -> Tensor:
    """Features float32 [N, D] on the CPU of images uint8 [N, 3, H, W]."""
    model.eval()
    with torch.inference_mode():
        batches = [_features(model, batch, precision).cpu() for batch in _batches(images, device)]
    # A clinic may have no training cell. Outside of the inference mode a copy can enter a loss.
    return torch.cat(batches).clone() if batches else torch.empty(0, model.head.in_features)


def sum_features(model: Network, cells: CellSet, device: torch.device, *, precision: Precision = "fp32") -> ClassSums:
    """S_{k,c} and n_{k,c} of a clinic's cells under a model: sums of unit-norm features [C, D] and counts [C]."""
    features = all_features(model, cells.images, device, precision=precision)
    sums, counts = class_sums(features, cells.labels, model.rows.num_classes)
    return ClassSums(sums.numpy(), counts.numpy())


def sum_stain(cells: CellSet) -> StainSums:
    """The stain sums of a clinic's cells: moments of each image's optical density, added up."""
    parts = [stain_sums(cells.images[start : start + _BATCH].float() / 255) for start in range(0, len(cells), _BATCH)]
    return reduce(add, parts, StainSums(0, np.zeros(NUM_STATISTICS), np.zeros(NUM_STATISTICS)))


def _features(model: Network, batch: Tensor, precision: Precision) -> Tensor:
    with computing_in(precision, batch.device):
        features = model.features(batch)
    return features.float()


def _batches(images: Tensor, device: torch.device) -> Iterator[Tensor]:
    for start in range(0, len(images), _BATCH):
        yield as_input(normalise(images[start : start + _BATCH].float() / 255), device)
