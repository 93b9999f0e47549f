"""Augmentation: what it may change, what it must not, and that only the generator decides."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from wbc_client.training import augmentation
from wbc_client.training.augmentation import Level, augment
from wbc_common.seeds import torch_generator
from wbc_common.stain import to_optical_density

REALDATA = Path(os.environ.get("WBC_REALDATA") or Path(__file__).parents[2].parent / "shared" / "realdata")
LEVELS: tuple[Level, ...] = ("none", "geometric", "stain")


def cells(number: int, size: int = 32) -> torch.Tensor:
    """uint8 [B, 3, size, size]: a dark violet disc right of the middle on a pale ground."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    disc = ((x - 0.2) ** 2 + y**2 < 0.3).expand(3, -1, -1)
    violet, pale = (torch.tensor(colour).view(3, 1, 1) for colour in ([90, 40, 140], [230, 220, 225]))
    return torch.where(disc, violet, pale).to(torch.uint8).expand(number, -1, -1, -1).clone()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("number", [1, 7])
def test_the_result_is_float32_in_the_unit_range_and_the_input_is_untouched(level: Level, number: int) -> None:
    images = cells(number)
    result = augment(images, level, torch_generator("range"))
    assert (result.shape, result.dtype) == (images.shape, torch.float32)
    assert 0 <= result.min() < result.max() <= 1
    assert torch.equal(images, cells(number))


@pytest.mark.parametrize("level", LEVELS)
def test_the_generator_alone_decides(level: Level) -> None:
    torch.manual_seed(1)
    first = augment(cells(6), level, torch_generator("a"))
    torch.manual_seed(2)
    assert torch.equal(first, augment(cells(6), level, torch_generator("a")))
    assert torch.equal(first, augment(cells(6), level, torch_generator("b"))) == (level == "none")


@pytest.mark.parametrize("level", LEVELS)
def test_bytes_and_floats_of_the_same_image_become_the_same(level: Level) -> None:
    as_bytes = augment(cells(4), level, torch_generator("dtype"))
    torch.testing.assert_close(augment(cells(4) / 255, level, torch_generator("dtype")), as_bytes)


def test_level_none_only_changes_the_scale() -> None:
    torch.testing.assert_close(augment(cells(2), "none", torch_generator("none")), cells(2) / 255)


@pytest.mark.parametrize("level", ["geometric", "stain"])
def test_each_image_of_a_batch_has_its_own_change(level: Level) -> None:
    result = augment(cells(8), level, torch_generator("own")).flatten(1)
    distances = torch.cdist(result, result) + torch.eye(8)
    assert distances.min() > 0.1


def test_geometry_leaves_a_flat_image_as_it_is() -> None:
    flat = torch.tensor([0.2, 0.5, 0.9]).view(1, 3, 1, 1).expand(16, 3, 24, 24)
    torch.testing.assert_close(augment(flat, "geometric", torch_generator("flat")), flat)


def test_zoom_and_shift_stay_within_their_bounds_and_angles_go_all_round() -> None:
    maps = augmentation._affine_maps(4000, torch_generator("maps")).double()
    enlargement = torch.linalg.svdvals(maps[:, :, :2]).reciprocal()
    torch.testing.assert_close(enlargement[:, 0], enlargement[:, 1], rtol=1e-5, atol=0)  # isotropic
    assert 0.7 - 1e-5 <= enlargement.min() < 0.71
    assert 1.39 < enlargement.max() <= 1.4 + 1e-5
    assert 0.238 < maps[:, :, 2].abs().max() <= 0.24  # 12 % of a side of length 2
    assert (torch.linalg.det(maps[:, :, :2]) < 0).double().mean().item() == pytest.approx(0.5, abs=0.04)  # mirrored
    quadrant = torch.atan2(maps[:, 1, 1], -maps[:, 0, 1]).mul(2 / torch.pi).floor()
    assert all(900 < int((quadrant == q).sum()) < 1100 for q in (-2, -1, 0, 1))


def test_a_cell_stays_in_the_picture() -> None:
    dark = augment(cells(200), "geometric", torch_generator("there")).mean(1) < 0.5
    share = dark.float().mean(dim=(1, 2))
    before = (cells(1).float().mean(1) < 127).float().mean().item()
    assert share.min() > 0.5 * before * 0.7**2


def test_stain_is_one_affine_map_of_optical_density_per_image() -> None:
    images = torch.rand(3, 3, 16, 16, generator=torch_generator("pixels"))
    before = to_optical_density(images).flatten(2).double()  # [B, 3, 256]
    after = to_optical_density(augmentation._restained(images, torch_generator("stain"))).flatten(2).double()
    for old, new in zip(before, after, strict=True):
        design = torch.cat([old, torch.ones(1, old.shape[1]).double()]).T  # [256, 4]
        fitted = torch.linalg.lstsq(design, new.T).solution
        torch.testing.assert_close(design @ fitted, new.T, atol=1e-3, rtol=0)
        assert not torch.allclose(fitted[:3], torch.eye(3).double(), atol=0.02)


def test_stain_strength_is_centred_on_the_image_as_it_is() -> None:
    mixing, shift = augmentation._stain_maps(4000, torch_generator("centre"))
    torch.testing.assert_close(mixing.median(0).values, torch.eye(3), atol=0.03, rtol=0)
    spread = mixing.diagonal(dim1=1, dim2=2).log().std(0)
    expected = (augmentation.STAIN_STRENGTH**2 + augmentation.GAMMA**2) ** 0.5
    torch.testing.assert_close(spread, torch.full((3,), expected), atol=0.02, rtol=0)
    assert shift.mean().item() == pytest.approx(augmentation.DARKNESS, abs=0.01)


def test_blur_and_noise_reach_their_share_of_the_images_and_no_others() -> None:
    images = torch.rand(4000, 3, 8, 8, generator=torch_generator("share"))
    for change, share in (
        (augmentation._blur, augmentation.BLUR_SHARE),
        (augmentation._add_noise, augmentation.NOISE_SHARE),
    ):
        changed = images.clone()
        change(changed, torch_generator("touch"))
        touched = (changed != images).flatten(1).any(1)
        assert touched.float().mean().item() == pytest.approx(share, abs=0.03)


def test_blur_keeps_the_mean_and_takes_contrast_and_noise_adds_it() -> None:
    images = torch.rand(400, 3, 32, 32, generator=torch_generator("contrast"))
    blurred, noisy = images.clone(), torch.full_like(images, 0.5)
    augmentation._blur(blurred, torch_generator("b"))
    augmentation._add_noise(noisy, torch_generator("n"))
    torch.testing.assert_close(blurred.mean(), images.mean(), atol=1e-3, rtol=0)
    assert blurred.std() < images.std() - 1e-3
    assert noisy.mean().item() == pytest.approx(0.5, abs=1e-3)
    per_image = noisy.flatten(1).std(1)
    assert 0.03 < per_image.max() < 1.1 * augmentation.NOISE_LEVEL


@pytest.mark.skipif(not REALDATA.is_dir(), reason="real cells absent: set WBC_REALDATA to their folder")
def test_real_cells_keep_contrast_between_nucleus_and_ground() -> None:
    paths = sorted(path for path in REALDATA.glob("*/*/*") if path.suffix in {".jpg", ".png"})[::60]
    opened = [np.asarray(Image.open(path).convert("RGB").resize((64, 64))) for path in paths]
    images = torch.from_numpy(np.stack(opened)).permute(0, 3, 1, 2)
    after = augment(images, "stain", torch_generator("real"))
    contrast = [batch.mean(1).flatten(1).std(1).median().item() for batch in (images / 255, after)]
    assert contrast[1] > 0.5 * contrast[0]


def test_the_sampling_grid_is_torchs_own() -> None:
    maps = augmentation._affine_maps(3, torch_generator("grid"))
    ours, theirs = augmentation._grid(maps, 5, 7), torch.nn.functional.affine_grid(maps, [3, 1, 5, 7], False)
    torch.testing.assert_close(ours, theirs)


def test_the_blur_is_a_gaussian_of_five_taps() -> None:
    weights = np.exp(-0.5 * (np.arange(-2, 3) / 0.8) ** 2)
    point = torch.zeros(1, 1, 7, 7)
    point[0, 0, 3, 3] = 1.0
    blurred = augmentation._gaussian(augmentation._gaussian(point, 0.8, dim=2), 0.8, dim=3)
    expected = np.outer(weights, weights) / weights.sum() ** 2
    np.testing.assert_allclose(blurred[0, 0, 1:6, 1:6], expected, atol=1e-6)
    assert float(blurred.sum()) == pytest.approx(1.0)
