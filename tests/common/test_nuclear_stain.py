"""Evening the nuclear stain: what it takes out, what it leaves, and that an image depends on itself alone."""

import pytest
import torch

from wbc_common.appearance import prepare
from wbc_common.images import BACKGROUND_LEVEL
from wbc_common.nuclear_stain import REFERENCE_OD, even_nuclear_stain
from wbc_common.study import ImageSettings

NUCLEUS_OD, GRANULE_OD = (0.6, 0.9, 0.3), (0.1, 0.5, 0.4)


def smear(*, gain: tuple[float, float, float] = (1.0, 1.0, 1.0), side: int = 64) -> torch.Tensor:
    """A nucleus in the middle and an eosin-coloured patch on a balanced ground, uint8 [1, 3, S, S]."""
    axis = torch.linspace(-1, 1, side)
    radius = (axis[:, None] ** 2 + axis**2).sqrt()
    density = torch.zeros(3, side, side)
    density[:, radius < 0.4] = torch.tensor(NUCLEUS_OD)[:, None]
    density[:, (radius > 0.5) & (radius < 0.6)] = torch.tensor(GRANULE_OD)[:, None]
    light = torch.exp(-density * torch.tensor(gain)[:, None, None])
    return (BACKGROUND_LEVEL * light).round().to(torch.uint8)[None]


def density_at(image: torch.Tensor, x: float) -> torch.Tensor:
    """OD per channel [3] on the horizontal through the middle, at x in 0..1 of the half width."""
    half = image.shape[-1] // 2
    return -torch.log(image[0, :, half, half + int(x * half)].float() / BACKGROUND_LEVEL)


@pytest.mark.parametrize("share", [0.5, 0.75, 1.0])
def test_densities_are_multiplied_by_a_power_of_how_far_the_nucleus_is_from_the_reference(share: float) -> None:
    evened = even_nuclear_stain(smear(), share)
    nucleus, reference = torch.tensor(NUCLEUS_OD), torch.tensor(REFERENCE_OD)
    gain = ((reference + 0.3) / (nucleus + 0.3)) ** share
    torch.testing.assert_close(density_at(evened, 0.0), gain * nucleus, atol=0.03, rtol=0)
    torch.testing.assert_close(density_at(evened, 0.55), gain * torch.tensor(GRANULE_OD), atol=0.03, rtol=0)


def test_a_nucleus_of_the_reference_stays_as_it_is() -> None:
    as_reference = tuple(wanted / own for wanted, own in zip(REFERENCE_OD, NUCLEUS_OD, strict=True))
    image = smear(gain=as_reference)  # type: ignore[arg-type]
    assert (even_nuclear_stain(image, 1.0).int() - image.int()).abs().max() <= 2


def test_a_strong_and_a_weak_stain_of_one_cell_come_out_far_more_alike_in_nucleus_and_granules() -> None:
    weak, strong = smear(gain=(0.8, 0.8, 0.8)), smear(gain=(1.3, 1.1, 1.5))
    for place in (0.0, 0.55):
        before = (density_at(weak, place) - density_at(strong, place)).abs()
        after = density_at(even_nuclear_stain(weak, 1.0), place) - density_at(even_nuclear_stain(strong, 1.0), place)
        assert (after.abs() < 0.7 * before).all()


def test_the_background_stays_as_white_balance_left_it() -> None:
    assert even_nuclear_stain(smear(), 0.75)[0, :, 0, 0].tolist() == [BACKGROUND_LEVEL] * 3


@pytest.mark.parametrize("level", [0, 128, 255])
def test_an_image_without_anything_in_it_is_no_error(level: int) -> None:
    blank = torch.full((2, 3, 48, 48), level, dtype=torch.uint8)
    evened = even_nuclear_stain(blank, 0.75)
    assert evened.shape == blank.shape
    assert (evened == evened[0, :, :1, :1]).all()


def test_an_image_is_evened_the_same_alone_and_among_others() -> None:
    images = torch.cat([smear(gain=(0.6 + 0.1 * k, 1.0, 0.9)) for k in range(7)])
    together = even_nuclear_stain(images, 0.75)
    for place in range(len(images)):
        assert torch.equal(even_nuclear_stain(images[place : place + 1], 0.75)[0], together[place])


def test_a_pale_nucleus_is_strengthened_by_a_bounded_factor_alone() -> None:
    pale = smear(gain=(0.1, 0.1, 0.1))
    red, green, blue = density_at(even_nuclear_stain(pale, 1.0), 0.0).tolist()
    assert green == pytest.approx(2.5 * 0.09, abs=0.02)
    assert red == pytest.approx(2.5 * 0.06, abs=0.02)
    assert blue == pytest.approx(0.85 / 0.33 * 0.03, abs=0.02)


def test_preparing_evens_after_framing_and_zero_leaves_the_pixels_alone() -> None:
    plan = ImageSettings(size_px=32, nuclear_stain=0.75)
    without = plan.model_copy(update={"nuclear_stain": 0.0})
    read = smear(gain=(0.7, 1.1, 0.8), side=plan.source_px)
    assert torch.equal(prepare(read, plan), even_nuclear_stain(prepare(read, without), plan.nuclear_stain))
    assert not torch.equal(prepare(read, plan), prepare(read, without))


def test_evening_without_white_balance_is_refused() -> None:
    with pytest.raises(ValueError, match="nuclear_stain measures dyes from a balanced background"):
        ImageSettings(white_balance=False, nuclear_stain=0.5)
    assert ImageSettings(white_balance=False).nuclear_stain == 0
