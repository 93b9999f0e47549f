"""Virtual stains: images take the drawn statistics, draws follow the pooled moments."""

import numpy as np
import pytest
import torch

from wbc_client.features import sum_stain
from wbc_client.training.augmentation import augment
from wbc_client.training.virtual_stains import VirtualStains, virtual_stains
from wbc_common.seeds import torch_generator
from wbc_common.stain import from_optical_density, od_statistics, stain_sums
from wbc_common.stain_sums import StainSums

CPU = torch.device("cpu")


def images(number: int, seed: int = 0) -> torch.Tensor:
    """Float images whose optical density has mean 0.6 or so and spread 0.2 in every channel."""
    density = 0.6 + 0.2 * torch.randn(number, 3, 24, 24, generator=torch.Generator().manual_seed(seed))
    return from_optical_density(density.clamp(0.0, 3.0))


def fixed(mean: list[float], spread: list[float], deviation: float = 0.0) -> VirtualStains:
    return VirtualStains(torch.tensor([*mean, *spread]), torch.full((6,), deviation))


def test_an_image_takes_the_means_and_spreads_that_were_drawn() -> None:
    stained = fixed([0.9, 0.7, 0.5], [0.3, 0.2, 0.1]).apply(images(4), torch_generator("x"))
    mean, spread = od_statistics(stained)
    torch.testing.assert_close(mean, torch.tensor([[0.9, 0.7, 0.5]]).expand(4, 3), atol=1e-3, rtol=0)
    torch.testing.assert_close(spread, torch.tensor([[0.3, 0.2, 0.1]]).expand(4, 3), atol=2e-3, rtol=0)


def test_an_empty_image_is_not_torn_apart() -> None:
    flat = torch.full((2, 3, 8, 8), 0.9)
    assert bool(fixed([0.5] * 3, [0.4] * 3).apply(flat, torch_generator("x")).isfinite().all())


def test_drawn_means_have_the_inflated_variance_of_the_federation() -> None:
    sums = StainSums(4, np.array([2.0, 2.0, 2.0, 0.8, 0.8, 0.8]), np.array([1.04, 1.04, 1.04, 0.16, 0.16, 0.16]))
    stains = virtual_stains(sums, inflation=2.25)  # means 0.5 and 0.2; variance 0.01 of the means, 0 of the spreads
    assert stains.deviation.tolist() == pytest.approx([0.15] * 3 + [0.0] * 3, abs=1e-4)
    drawn, _ = od_statistics(stains.apply(images(2000), torch_generator("many")))
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.01)
    assert drawn.std().item() == pytest.approx(0.15, rel=0.05)


def test_augmentation_uses_the_federations_stains_where_the_level_says_so() -> None:
    dark = fixed([2.0] * 3, [0.2] * 3)
    result = augment(images(8), "federated-stain", torch_generator("a"), dark)
    assert float(result.mean()) < 0.25  # OD 2 lets 14 % of the light through
    assert float(augment(images(8), "stain", torch_generator("a")).mean()) > 0.3


def test_a_clinics_stain_sums_are_those_of_its_images_whatever_the_batches() -> None:
    from wbc_client.dataset.cell_set import CellSet

    pixels = (images(300) * 255).clamp(0, 255).byte()
    cells = CellSet(pixels, torch.ones(300, 5, dtype=torch.bool), torch.arange(300), torch.zeros(300).long())
    expected = stain_sums(pixels.double() / 255)
    found = sum_stain(cells)
    assert found.images == 300
    np.testing.assert_allclose(found.first, expected.first, rtol=1e-5)
    np.testing.assert_allclose(found.second, expected.second, rtol=1e-5)
    assert sum_stain(cells.subset(torch.arange(0))).images == 0
