"""Optical density: the space in which stain is linear, and what a clinic may tell about its stain.

By Beer and Lambert the light that a stained cell absorbs grows with the *logarithm* of the amount of dye, so stain
strength, hue, brightness and gamma are all affine in OD = −log((I + ε)/I₀) (docs/method.md §3; Ruifrok and Johnston
2001). I₀ = 1, since images are divided by their background's colour before. ε = 1/255, one grey level, bounds a black
pixel at 5.5. What a clinic shares are `StainSums`, which add across clinics: never one image's statistics.
"""

import torch

from wbc_common.stain_sums import StainSums

EPSILON = 1 / 255


def to_optical_density(images: torch.Tensor) -> torch.Tensor:
    """OD = −log(I + ε). `images` float [B, 3, H, W] in 0..1; natural logarithm, 0 is (almost) the white background."""
    return log_light(images).neg_()


def from_optical_density(density: torch.Tensor) -> torch.Tensor:
    """I = exp(−OD) − ε, the inverse of `to_optical_density`; not clipped to 0..1."""
    return from_log_light(density.neg())


def log_light(images: torch.Tensor) -> torch.Tensor:
    """−OD = log(I + ε), for maps that do not need its sign; the same shape, a new tensor."""
    return (images + EPSILON).log_()


def from_log_light(light: torch.Tensor) -> torch.Tensor:
    """I = exp(−OD) − ε from −OD, in its place."""
    return light.exp_().sub_(EPSILON)


def od_statistics(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and (population) standard deviation of each image's OD per channel: [B, 3] and [B, 3]."""
    spread, mean = torch.std_mean(to_optical_density(images), dim=(2, 3), correction=0)
    return mean, spread


def stain_sums(images: torch.Tensor) -> StainSums:
    """The StainSums of a batch, float [B, 3, H, W] in 0..1."""
    statistics = torch.cat(od_statistics(images), dim=1).double()  # [B, 6]
    return StainSums(len(images), statistics.sum(0).numpy(), statistics.square().sum(0).numpy())
