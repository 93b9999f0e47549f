"""How pixels enter the network: one fixed affine map, the same for training and testing at every clinic.

Fixed numbers rather than a data set's mean and spread: those would be statistics of somebody's images, and a held-out
clinic contributes none (docs/method.md §5.1).
"""

import torch

CENTRE = 0.5
SPREAD = 0.25


def normalise(images: torch.Tensor) -> torch.Tensor:
    """(x − 0.5) / 0.25: intensities in 0..1 become −2..2. `images` float [B, 3, H, W], same shape and dtype out."""
    return (images - CENTRE) / SPREAD
