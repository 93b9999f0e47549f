"""Framing: every cell about as large in its image, wherever its clinic's crops begin and end.

Clinics cut cells out tightly or loosely, at different magnifications, and mostly without telling µm per pixel; a
network trained on tight crops sees a loose one as another thing. The nucleus is what all crops share: its dye absorbs
red light, which red cells and eosin hardly do. So the window is centred on the nuclear dye and sized by its spread,
image by image, without labels and without any statistic of a data set. A crop that is tight already stays as it is
(nothing is invented around it). Limits: a cell's absolute size is lost, and where two nucleated cells touch, the
window may hold both.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

_WINDOW = 5.0  # side over the RMS radius of the nuclear dye; about 1.3 cell diameters for a round nucleus
_SMALLEST = 0.35  # of the image: a speck of stain is no nucleus
_CENTRE_PRIOR = 0.5  # σ of the first look, in half images: the cell of a crop is near its middle
_STEPS = 4


def frame_nuclei(images: Tensor, size_px: int) -> Tensor:
    """Images uint8 [N, 3, S, S], white-balanced, windowed on their nuclei and resized to uint8 [N, 3, size, size]."""
    centre, half = nuclear_windows(images)
    transform = torch.zeros(len(images), 2, 3)
    transform[:, 0, 0] = transform[:, 1, 1] = half
    transform[:, :, 2] = centre
    # Bilinear sampling skips pixels when it shrinks; the images come at most 1.5 times larger, so it hardly does.
    grid = F.affine_grid(transform, [len(images), 3, size_px, size_px], align_corners=False)
    windows = F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
    return windows.round().clamp(0, 255).to(torch.uint8)


def nuclear_windows(images: Tensor) -> tuple[Tensor, Tensor]:
    """Window centres [N, 2] (x, y in −1..1) and half sides [N] (1 is the whole image) of images uint8 [N, 3, S, S]."""
    dye = nuclear_dye(images)
    axis = torch.linspace(-1, 1, images.shape[-1])
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    looked_at = nearness_to_middle(images.shape[-1]).expand_as(dye)
    for _ in range(_STEPS):
        weight = dye * looked_at
        weight = weight / weight.sum(dim=(1, 2), keepdim=True).clamp_min(1e-6)
        centre = torch.stack([(weight * x).sum(dim=(1, 2)), (weight * y).sum(dim=(1, 2))], dim=1)  # [N, 2]
        distance = (x - centre[:, 0, None, None]) ** 2 + (y - centre[:, 1, None, None]) ** 2
        radius = (weight * distance).sum(dim=(1, 2)).sqrt()  # [N]
        looked_at = (distance < (2.2 * radius).clamp_min(0.2)[:, None, None] ** 2).float()
    half = (_WINDOW / 2 * radius).clamp(_SMALLEST, 1.0)
    return torch.clamp(centre, (half - 1)[:, None], (1 - half)[:, None]), half


def nearness_to_middle(side_px: int) -> Tensor:
    """How likely a pixel belongs to the cell that the crop was made for, 0..1 [S, S]."""
    axis = torch.linspace(-1, 1, side_px)
    return torch.exp(-(axis[:, None] ** 2 + axis**2) / (2 * _CENTRE_PRIOR**2))


def nuclear_dye(images: Tensor) -> Tensor:
    """How surely a pixel is nucleus, 0..1 [N, S, S]: optical density in red, above midway from median to darkest."""
    red = images[:, 0].float().clamp_min(1) / 255
    density = F.avg_pool2d(-torch.log(red)[:, None], 3, stride=1, padding=1)[:, 0]
    flat = density.flatten(1)
    middle, dark = flat.quantile(0.5, dim=1), flat.quantile(0.98, dim=1)
    threshold = (middle + dark) / 2
    return ((density - threshold[:, None, None]) / (dark - threshold).clamp_min(1e-3)[:, None, None]).clamp(0, 1)
