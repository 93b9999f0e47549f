"""Optical density: exact there and back, hand-worked values, and sums that add over clinics."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wbc_common.appearance import normalise
from wbc_common.stain import from_optical_density, od_statistics, stain_sums, to_optical_density
from wbc_common.stain_sums import StainSums


def some_images(number: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(number, 3, 5, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_all_grey_levels_survive_optical_density_and_back() -> None:
    levels = (torch.arange(256) / 255).expand(1, 3, 1, 256)
    back = from_optical_density(to_optical_density(levels))
    assert torch.equal((back * 255).round(), levels * 255)
    torch.testing.assert_close(back, levels, atol=1e-6, rtol=0)


def test_white_is_almost_no_density_and_black_is_bounded() -> None:
    density = to_optical_density(torch.tensor([1.0, 0.0]).view(1, 1, 1, 2))
    assert density[0, 0, 0, 0].item() == pytest.approx(-math.log(256 / 255), abs=1e-6)
    assert density[0, 0, 0, 1].item() == pytest.approx(math.log(255), abs=1e-5)


def test_the_images_given_are_not_changed() -> None:
    images = torch.full((1, 3, 2, 2), 0.5)
    from_optical_density(to_optical_density(images))
    assert bool((images == 0.5).all())


def test_twice_the_dye_is_twice_the_density() -> None:
    transmitted = torch.full((1, 3, 1, 1), 0.5, dtype=torch.float64) - 1 / 255
    squared = torch.full((1, 3, 1, 1), 0.25, dtype=torch.float64) - 1 / 255
    torch.testing.assert_close(to_optical_density(squared), 2 * to_optical_density(transmitted))


def test_statistics_are_each_images_own_mean_and_spread_per_channel() -> None:
    half = torch.tensor([1.0, 3.0], dtype=torch.float64).repeat(3, 2, 1)  # [3, 2, 2], mean 2, spread 1
    constant = torch.full((3, 2, 2), 0.5, dtype=torch.float64)
    mean, spread = od_statistics(from_optical_density(torch.stack([half, constant])))
    torch.testing.assert_close(mean, torch.tensor([[2.0] * 3, [0.5] * 3], dtype=torch.float64))
    torch.testing.assert_close(spread, torch.tensor([[1.0] * 3, [0.0] * 3], dtype=torch.float64))


@given(st.integers(1, 8))
def test_the_sums_of_two_clinics_add_to_the_sums_of_their_pool(split: int) -> None:
    images = some_images(9)
    added = stain_sums(images[:split]) + stain_sums(images[split:])
    pooled = stain_sums(images)
    assert added.images == pooled.images == 9
    np.testing.assert_allclose(added.first, pooled.first)
    np.testing.assert_allclose(added.second, pooled.second)


def test_the_pooled_gaussian_is_that_of_the_images_statistics_put_together() -> None:
    images = some_images(20)
    mean, deviation = (stain_sums(images[:3]) + stain_sums(images[3:])).gaussian()
    statistics = torch.cat(od_statistics(images), dim=1)
    np.testing.assert_allclose(mean, statistics.mean(0))
    np.testing.assert_allclose(deviation, statistics.std(0, correction=0))


def test_rounding_never_makes_a_deviation_of_identical_images_nan() -> None:
    third = np.full(6, 1 / 3)
    _, deviation = StainSums(3, 3 * third, 3 * third**2 * (1 - 1e-15)).gaussian()
    assert deviation.tolist() == [0] * 6


def test_normalising_maps_black_grey_and_white_to_minus_two_zero_and_two() -> None:
    assert normalise(torch.tensor([0.0, 0.5, 1.0]).view(1, 1, 1, 3)).flatten().tolist() == [-2, 0, 2]
