"""What a training clinic tells of its stain: sums over its images, which add over clinics (docs/method.md §3).

An image's statistics are the mean and the standard deviation of its optical density per channel. Of each a clinic sends
the sum and the sum of squares, 13 numbers in all, never one image's. Their totals give one Gaussian per statistic.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NUM_STATISTICS = 6


@dataclass(frozen=True)
class StainSums:
    """Sums over images of each OD statistic and of its square; columns are the 3 means, then the 3 spreads.

    Args:
        images: number of images summed.
        first: float64 [6], sums.
        second: float64 [6], sums of squares.
    """

    images: int
    first: NDArray[np.float64]
    second: NDArray[np.float64]

    def __add__(self, other: "StainSums") -> "StainSums":
        return StainSums(self.images + other.images, self.first + other.first, self.second + other.second)

    def gaussian(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The pooled Gaussian of each statistic, from the sums alone: mean [6] and population deviation [6]."""
        mean = self.first / self.images
        deviation: NDArray[np.float64] = np.sqrt(np.maximum(self.second / self.images - mean**2, 0))
        return mean, deviation
