"""What a finished model says of a clinic's cells: the same at a clinic, in a bound and in `wbc-client predict`."""

import torch
from torch import Tensor

from wbc_client.evaluation.neighbours import predicted_classes
from wbc_client.evaluation.stain_averaging import predict_averaged
from wbc_client.precision import Precision
from wbc_common.models import Network
from wbc_common.study import EvaluationSettings


def predict_finished(
    model: Network, images: Tensor, device: torch.device, settings: EvaluationSettings, *, precision: Precision = "fp32"
) -> tuple[Tensor, Tensor]:
    """Of images uint8 [N, 3, H, W]: logits float32 [N, C], of each cell by itself, and classes int64 [N]."""
    logits, features = predict_averaged(model, images, device, draws=settings.stain_draws, precision=precision)
    return logits, predicted_classes(logits, features, together=settings.together)
