"""How pixels enter the network: prepared image by image, then one fixed affine map, the same at every clinic.

Fixed numbers rather than a data set's mean and spread: those would be statistics of somebody's images, and a held-out
clinic contributes none (docs/method.md §5.1).
"""

import math

import torch

from wbc_common.framing import frame_nuclei
from wbc_common.images import white_balance
from wbc_common.nuclear_stain import even_nuclear_stain
from wbc_common.study import ImageSettings

CENTRE = 0.5
SPREAD = 0.25
_PIXELS_AT_ONCE = 4_000_000  # of each channel: bounds the memory of the float copies, whatever the images' size


def normalise(images: torch.Tensor) -> torch.Tensor:
    """(x − 0.5) / 0.25: intensities in 0..1 become −2..2. `images` float [B, 3, H, W], same shape and dtype out."""
    return (images - CENTRE).div_(SPREAD)


def prepare(images: torch.Tensor, settings: ImageSettings) -> torch.Tensor:
    """Images as read, uint8 [N, 3, source_px, source_px], as a study sees them, uint8 [N, 3, size_px, size_px].

    Part by part into its final place, as source and result are most of a clinic's memory. The parts are equal in size:
    a last image alone would be summed in another order, and might differ in a bit.
    """
    if not settings.white_balance and settings.framing == "as-is":
        return images
    prepared = images.new_empty((len(images), 3, settings.size_px, settings.size_px))
    if not len(images):
        return prepared
    num_parts = math.ceil(images[:, 0].numel() / _PIXELS_AT_ONCE)
    for part, place in zip(images.tensor_split(num_parts), prepared.tensor_split(num_parts), strict=True):
        seen = white_balance(part) if settings.white_balance else part
        seen = frame_nuclei(seen, settings.size_px) if settings.framing == "nucleus" else seen
        place.copy_(even_nuclear_stain(seen, settings.nuclear_stain) if settings.nuclear_stain else seen)
    return prepared
