"""Augmentation on batches of tensors: the cell as it could have lain, and as another lab could have stained it.

Three levels. *geometric* is one affine map per image, since a cell has no up and its neighbours move with it. *stain*
adds one affine map per image in optical density (docs/method.md §3), where dye strength and hue (a 3×3 colour matrix),
gamma (a factor), brightness and colour casts (shifts) compose into `OD' = A·OD + t`: one logarithm and one exponential
per pixel, far faster than hue jitter; then blur, noise and darkness of poor cameras on some images. The ranges are
those of Tellez et al. 2019 ("HED-strong") and RandStainNA (Shen et al. 2022), inflated; none was fitted to a clinic.
*federated-stain* takes the stain from `wbc_client.training.virtual_stains` instead, which the training clinics' sums
describe.

All randomness is drawn per image from the generator given, on that generator's device.
"""

import math
from typing import Literal

import torch
from torch.nn import functional

from wbc_client.training.virtual_stains import VirtualStains
from wbc_common.stain import from_log_light, log_light

ZOOM = (0.7, 1.4)
SHIFT = 0.12  # of the image's side
STAIN_STRENGTH = 0.2  # deviation of log scale per channel
STAIN_MIXING = 0.12  # deviation of the colour matrix off its diagonal
GAMMA = 0.2  # deviation of log gamma
CAST = 0.2  # OD, largest deviation per channel; each image draws its own, so most casts are mild
DARKNESS = 0.12  # OD, mean of an exponential: half of the images lose 8 % of light or more, one in 20 loses 30 %
BLUR_SHARE = 0.2
BLUR_SIGMA_PX = (0.4, 1.2)
NOISE_SHARE = 0.2
NOISE_LEVEL = 0.04  # largest deviation, of the full range

Level = Literal["none", "geometric", "stain", "federated-stain"]


@torch.no_grad()
def augment(
    images: torch.Tensor, level: Level, generator: torch.Generator, stains: VirtualStains | None = None
) -> torch.Tensor:
    """A random version of each image: float32 [B, 3, H, W] in 0..1.

    `images` uint8 or float in 0..1, [B, 3, H, W]; never changed, though level "none" may hand them back.
    `stains` are those of level "federated-stain". The same generator state gives the same result.
    """
    pixels = _as_float(images)
    if level == "none":
        return pixels
    pixels = _moved(pixels, generator)
    if level == "geometric":
        return pixels
    pixels = _restained(pixels, generator) if stains is None else stains.apply(pixels, generator)
    _blur(pixels, generator)
    _add_noise(pixels, generator)
    return pixels.clamp_(0, 1)


def _as_float(images: torch.Tensor) -> torch.Tensor:
    return images.float() if images.is_floating_point() else images.float().div_(255)


def _moved(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Mirror, turn by any angle (quarter turns among them), zoom and shift in one resampling; edges are reflected."""
    maps = _affine_maps(len(images), generator).to(images)
    grid = _grid(maps, images.shape[-2], images.shape[-1])
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _grid(maps: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Where each output pixel comes from, [B, H, W, 2]; torch's affine_grid by sums, at a tenth of its time.

    In memory one plane a coordinate: sums along rows are many times faster than over pairs.
    """
    x = (2 * torch.arange(width, device=maps.device) + 1) / width - 1  # pixel centres in −1..1
    y = (2 * torch.arange(height, device=maps.device) + 1) / height - 1
    along_x = maps[:, :, 0, None, None] * x  # [B, 2, 1, W]
    along_y = maps[:, :, 1, None, None] * y[:, None] + maps[:, :, 2, None, None]  # [B, 2, H, 1]
    return (along_x + along_y).permute(0, 2, 3, 1)


def _affine_maps(number: int, generator: torch.Generator) -> torch.Tensor:
    """[B, 2, 3] from output to input coordinates, both in −1..1 of a square image."""
    angle = _uniform(number, (-math.pi, math.pi), generator)
    # A map from output to input shrinks what it enlarges; drawn evenly in the logarithm.
    scale = 1 / _uniform(number, (math.log(ZOOM[0]), math.log(ZOOM[1])), generator).exp()
    mirror = torch.randint(0, 2, (number,), generator=generator, device=generator.device) * 2 - 1
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    turned = torch.stack([cosine * mirror, -sine, sine * mirror, cosine], dim=1).view(number, 2, 2)
    shift = _uniform((number, 2, 1), (-2 * SHIFT, 2 * SHIFT), generator)
    return torch.cat([turned, shift], dim=2)


def stained_alike(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Float images [B, 3, H, W] all in one other stain of our own ranges; not clipped to 0..1."""
    return _in_stains(images, *_stain_maps(1, generator))


def _restained(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return _in_stains(images, *_stain_maps(len(images), generator))


def _in_stains(images: torch.Tensor, mixing: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """`OD' = A·OD + t`, by one map or one an image; the result is not yet clipped to 0..1."""
    light = log_light(images).flatten(2)  # −OD, [B, 3, H·W]; signs change nothing in a sum's rounding
    mixing = mixing.to(images).expand(len(images), -1, -1)
    changed = torch.baddbmm(shift.neg().to(images), mixing, light)
    return from_log_light(changed).view_as(images)


def _stain_maps(number: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """The colour matrix A [B, 3, 3] and the shift t [B, 3, 1]."""
    strength = (STAIN_STRENGTH * _normal((number, 3, 1), generator)).exp()
    gamma = (GAMMA * _normal((number, 1, 1), generator)).exp()
    identity = torch.eye(3, device=generator.device)
    mixing = identity + STAIN_MIXING * _normal((number, 3, 3), generator) * (1 - identity)
    darkness = -DARKNESS * _uniform((number, 1, 1), (0, 1), generator).clamp_min(1e-6).log()
    cast = _uniform((number, 1, 1), (0, CAST), generator) * _normal((number, 3, 1), generator)
    return gamma * strength * mixing, darkness + cast


def _blur(images: torch.Tensor, generator: torch.Generator) -> None:
    """Put some images out of focus, in place, by one σ for the batch."""
    sigma = float(_uniform(1, BLUR_SIGMA_PX, generator))
    chosen = _chosen(len(images), BLUR_SHARE, generator).to(images.device)
    blurred = _gaussian(_gaussian(images[chosen], sigma, dim=2), sigma, dim=3)
    images.index_copy_(0, chosen, blurred)


def _gaussian(images: torch.Tensor, sigma: float, *, dim: int) -> torch.Tensor:
    """Gaussian blur with 5 taps along one axis, edges reflected: a few sums, where a convolution would cost more."""
    weights = [math.exp(-((step / sigma) ** 2) / 2) for step in range(3)]
    total = weights[0] + 2 * (weights[1] + weights[2])
    padding = [0, 0, 2, 2] if dim == 2 else [2, 2, 0, 0]
    padded, size = functional.pad(images, padding, mode="reflect"), images.shape[dim]
    blurred = padded.narrow(dim, 2, size) * (weights[0] / total)
    for step in (1, 2):
        pair = padded.narrow(dim, 2 - step, size) + padded.narrow(dim, 2 + step, size)
        blurred.add_(pair, alpha=weights[step] / total)
    return blurred


def _add_noise(images: torch.Tensor, generator: torch.Generator) -> None:
    """Gaussian noise of a random level on some images, in place."""
    chosen = _chosen(len(images), NOISE_SHARE, generator)
    level = _uniform((len(chosen), 1, 1, 1), (0, NOISE_LEVEL), generator)
    noise = level * _normal((len(chosen), *images.shape[1:]), generator)
    images.index_add_(0, chosen.to(images.device), noise.to(images))


def _chosen(number: int, share: float, generator: torch.Generator) -> torch.Tensor:
    """Indices [M] of the images drawn, each with probability `share`."""
    return (_uniform(number, (0, 1), generator) < share).nonzero().squeeze(1)


def _uniform(shape: int | tuple[int, ...], bounds: tuple[float, float], generator: torch.Generator) -> torch.Tensor:
    low, high = bounds
    return low + (high - low) * torch.rand(shape, generator=generator, device=generator.device)


def _normal(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    return torch.randn(shape, generator=generator, device=generator.device)
