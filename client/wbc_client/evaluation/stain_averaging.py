"""Test-time averaging: a prediction that hangs neither on the one stain nor on the one position of an image.

Probabilities are averaged over the image as it is and versions of it in other stains, each turned or mirrored as well.
Stains and positions are the same for every image, clinic and model: a prediction depends on the image alone, and
what is measured at a held-out clinic is what `wbc-client predict` says.
"""

import torch
from torch import Tensor

from wbc_client.features import predict
from wbc_client.precision import Precision
from wbc_client.training.augmentation import stained_alike
from wbc_common.models import Network
from wbc_common.seeds import torch_generator

_BATCH = 256
_QUARTER_TURNS = 4


def predict_averaged(
    model: Network, images: Tensor, device: torch.device, *, draws: int, precision: Precision = "fp32"
) -> Tensor:
    """Logarithms of the mean probabilities, float32 [N, C], of images uint8 [N, 3, H, W]; plain logits without draws.

    Args:
        draws: versions beside the image itself; 7 make all eight positions of a square.
    """
    logits = predict(model, images, device, precision=precision)
    if draws == 0:
        return logits
    total = logits.softmax(dim=1)
    for number in range(1, draws + 1):
        total = total + predict(model, _version(images, number, device), device, precision=precision).softmax(dim=1)
    return (total / (draws + 1)).clamp_min(torch.finfo(total.dtype).tiny).log()


def _version(images: Tensor, number: int, device: torch.device) -> Tensor:
    """uint8 [N, 3, H, W] on the CPU, all images in the stain and position of that number."""
    parts = []
    for start in range(0, len(images), _BATCH):
        batch = images[start : start + _BATCH].to(device).float() / 255
        restained = stained_alike(batch, torch_generator("stain draws", str(number)))
        parts.append(_placed(restained.clamp_(0, 1).mul_(255).round_().byte(), number).cpu())
    return torch.cat(parts) if parts else images


def _placed(images: Tensor, number: int) -> Tensor:
    turned = torch.rot90(images, number % _QUARTER_TURNS, dims=(2, 3))
    return turned.flip(3) if number // _QUARTER_TURNS % 2 else turned
