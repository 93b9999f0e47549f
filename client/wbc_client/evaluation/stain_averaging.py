"""Test-time averaging: a prediction that hangs neither on the one stain nor on the one position of an image.

Probabilities are averaged over the image as it is and versions of it in other stains, each turned or mirrored as well.
Stains and positions are the same for every image, clinic and model: these probabilities depend on the image alone.
"""

import torch
from torch import Tensor

from wbc_client.features import predict_with_features
from wbc_client.precision import Precision
from wbc_client.training.augmentation import stained_alike
from wbc_common.models import Network
from wbc_common.seeds import torch_generator

_BATCH = 256
_QUARTER_TURNS = 4


def predict_averaged(
    model: Network, images: Tensor, device: torch.device, *, draws: int, precision: Precision = "fp32"
) -> tuple[Tensor, Tensor]:
    """Logits and features of images uint8 [N, 3, H, W], over the image and its versions.

    Args:
        draws: versions beside the image itself; 7 make all eight positions of a square.

    Returns:
        Logarithms of the mean probabilities, float32 [N, C], plain logits without draws; mean features, float32 [N, D].
    """
    logits, features = predict_with_features(model, images, device, precision=precision)
    if draws == 0:
        return logits, features
    total = logits.softmax(dim=1)
    for number in range(1, draws + 1):
        logits, seen = predict_with_features(model, _version(images, number, device), device, precision=precision)
        total, features = total + logits.softmax(dim=1), features + seen
    return (total / (draws + 1)).clamp_min(torch.finfo(total.dtype).tiny).log(), features / (draws + 1)


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
