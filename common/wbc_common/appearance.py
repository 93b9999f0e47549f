"""How pixels enter the network: prepared image by image, then one fixed affine map, the same at every clinic.

Fixed numbers rather than a data set's mean and spread: those would be statistics of somebody's images, and a held-out
clinic contributes none (docs/method.md §5.1).
"""

import torch

from wbc_common.framing import frame_nuclei
from wbc_common.images import white_balance
from wbc_common.study import ImageSettings

CENTRE = 0.5
SPREAD = 0.25


def normalise(images: torch.Tensor) -> torch.Tensor:
    """(x − 0.5) / 0.25: intensities in 0..1 become −2..2. `images` float [B, 3, H, W], same shape and dtype out."""
    return (images - CENTRE).div_(SPREAD)


def prepare(images: torch.Tensor, settings: ImageSettings) -> torch.Tensor:
    """Images as read, uint8 [N, 3, source_px, source_px], as a study sees them, uint8 [N, 3, size_px, size_px]."""
    balanced = white_balance(images) if settings.white_balance else images
    return frame_nuclei(balanced, settings.size_px) if settings.framing == "nucleus" else balanced
