"""Virtual stains: each image as it would look with the stain of a lab drawn from the federation (docs/method.md §3).

RandStainNA (Shen et al., MICCAI 2022) draws a template per image from Gaussians of the training images' colour
statistics. Here the statistics are means and spreads of optical density, and the Gaussians come from the training
clinics' summed moments (`wbc_common.stain_sums`), with their variance inflated: stains a little beyond those seen. The
image is moved to its template by `OD' = (OD − m)·(s̃/s) + m̃` per channel.
"""

from dataclasses import dataclass

import torch

from wbc_common.stain import from_optical_density, od_statistics, to_optical_density
from wbc_common.stain_sums import StainSums

_STRETCH = (0.4, 2.5)  # of an image's spread; a pale image has little spread and would be torn apart
_SMALLEST_SPREAD = 1e-3  # OD; an empty image has none


@dataclass(frozen=True)
class VirtualStains:
    """Gaussians of the three means and three spreads of optical density.

    Args:
        mean: float32 [6].
        deviation: float32 [6], inflated.
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def apply(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """A virtual stain for each image: float [B, 3, H, W] in 0..1 in, the same shape out, not clipped."""
        drawn = self.mean + self.deviation * torch.randn(len(images), 6, generator=generator, device=generator.device)
        mean, spread = (part.to(images)[:, :, None, None] for part in od_statistics(images))  # [B, 3, 1, 1]
        new_mean, new_spread = (part.to(images)[:, :, None, None] for part in torch.split(drawn, 3, dim=1))
        stretch = (new_spread / spread.clamp_min(_SMALLEST_SPREAD)).clamp(*_STRETCH)
        return from_optical_density((to_optical_density(images) - mean) * stretch + new_mean)


def virtual_stains(sums: StainSums, inflation: float) -> VirtualStains:
    """The stains that pooled sums describe; `inflation` multiplies the variances."""
    mean, deviation = sums.gaussian()
    return VirtualStains(
        torch.from_numpy(mean).float(), torch.from_numpy(deviation).float() * torch.tensor(inflation).sqrt()
    )
