"""Test-time averaging over stain draws: a prediction that does not hang on the one stain that an image came with.

Probabilities are averaged over the image as it is and `draws` versions of it in other stains. The stains drawn depend
on the clinic alone, so that two models are compared on the same ones.
"""

import torch
from torch import Tensor

from wbc_client.augmentation import restain
from wbc_client.features import predict
from wbc_client.precision import Precision
from wbc_client.virtual_stains import VirtualStains
from wbc_common.models import Network
from wbc_common.seeds import torch_generator

_BATCH = 256


def predict_over_stains(
    model: Network,
    images: Tensor,
    device: torch.device,
    *,
    draws: int,
    clinic: str,
    stains: VirtualStains | None,
    precision: Precision = "fp32",
) -> Tensor:
    """Logarithms of the mean probabilities, float32 [N, C], of images uint8 [N, 3, H, W]; plain logits without draws.

    Args:
        draws: virtual stains beside the image itself.
        stains: of the federation; None draws from the ranges of augmentation "stain".
    """
    logits = predict(model, images, device, precision=precision)
    if draws == 0:
        return logits
    generator = torch_generator("stain draws", clinic)
    total = logits.softmax(dim=1)
    for _ in range(draws):
        restained = _restained(images, generator, stains)
        total = total + predict(model, restained, device, precision=precision).softmax(dim=1)
    return (total / (draws + 1)).clamp_min(torch.finfo(total.dtype).tiny).log()


def _restained(images: Tensor, generator: torch.Generator, stains: VirtualStains | None) -> Tensor:
    """uint8 [N, 3, H, W], each image in a stain of its own."""
    parts = [
        restain(images[start : start + _BATCH].float() / 255, generator, stains).clamp_(0, 1).mul_(255).round_().byte()
        for start in range(0, len(images), _BATCH)
    ]
    return torch.cat(parts) if parts else images
