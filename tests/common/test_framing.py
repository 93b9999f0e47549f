"""Framing finds the nucleus and brings it to one size."""

import pytest
import torch

from wbc_common import appearance
from wbc_common.appearance import prepare
from wbc_common.framing import frame_nuclei, nuclear_windows
from wbc_common.images import white_balance
from wbc_common.nuclear_stain import even_nuclear_stain
from wbc_common.study import ImageSettings

PALE, PURPLE, RED_CELL = (245, 245, 245), (90, 40, 140), (225, 150, 150)


def smear(*, side: int, centre: tuple[float, float], radius: float) -> torch.Tensor:
    """One purple disc on a pale ground with a red cell in a corner, uint8 [1, 3, S, S]; centre x, y in −1..1."""
    axis = torch.linspace(-1, 1, side)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    nucleus = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2
    red_cell = (x - 0.75) ** 2 + (y + 0.75) ** 2 < 0.2**2
    image = torch.tensor(PALE)[:, None, None].repeat(1, side, side)
    image[:, red_cell] = torch.tensor(RED_CELL)[:, None]
    image[:, nucleus] = torch.tensor(PURPLE)[:, None]
    return image[None].to(torch.uint8)


@pytest.mark.parametrize("centre", [(0.0, 0.0), (0.3, -0.2), (-0.25, 0.35)])
def test_the_window_is_centred_on_the_nucleus_and_not_on_a_red_cell(centre: tuple[float, float]) -> None:
    found, half = nuclear_windows(smear(side=96, centre=centre, radius=0.2))
    torch.testing.assert_close(found[0], torch.tensor(centre), atol=0.05, rtol=0)
    # A disc's RMS radius is r/√2; half the window is 2.5 times that.
    assert half.item() == pytest.approx(2.5 * 0.2 / 2**0.5, rel=0.15)


def test_a_loose_and_a_tight_crop_of_a_nucleus_come_out_alike() -> None:
    loose = frame_nuclei(smear(side=96, centre=(0.1, 0.1), radius=0.2), 64)
    tight = frame_nuclei(smear(side=96, centre=(0.0, 0.0), radius=0.4), 64)

    def nuclear_share(image: torch.Tensor) -> float:
        return float((image[0, 0] < 150).float().mean())

    assert nuclear_share(loose) == pytest.approx(nuclear_share(tight), rel=0.25)


def test_a_crop_that_is_tight_already_keeps_its_whole_field() -> None:
    _, half = nuclear_windows(smear(side=96, centre=(0.0, 0.0), radius=0.7))
    assert half.item() == 1.0


@pytest.mark.parametrize("level", [0, 128, 255])
def test_an_image_without_anything_in_it_is_no_error(level: int) -> None:
    blank = torch.full((2, 3, 48, 48), level, dtype=torch.uint8)
    framed = frame_nuclei(blank, 32)
    assert framed.shape == (2, 3, 32, 32)
    assert (framed == level).all()


def test_an_image_is_framed_the_same_alone_and_among_others() -> None:
    images = torch.cat([smear(side=48, centre=(0.1 * k, 0.0), radius=0.3) for k in range(4)])
    together = frame_nuclei(images, 32)
    torch.testing.assert_close(frame_nuclei(images[2:3], 32), together[2:3])


def test_as_is_leaves_the_pixels_alone() -> None:
    settings = ImageSettings(size_px=32, white_balance=False, framing="as-is")
    image = smear(side=settings.source_px, centre=(0.3, 0.3), radius=0.2)
    assert torch.equal(prepare(image, settings), image)


@pytest.mark.parametrize("framing", ["nucleus", "as-is"])
def test_images_prepared_in_parts_are_those_prepared_at_once(framing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ImageSettings.model_validate({"size_px": 32, "framing": framing, "nuclear_stain": 0.75})
    side, sizes = settings.source_px, []
    images = torch.cat([smear(side=side, centre=(0.02 * k - 0.2, 0.1), radius=0.3) for k in range(22)])
    at_once = white_balance(images)
    at_once = frame_nuclei(at_once, 32) if framing == "nucleus" else at_once
    at_once = even_nuclear_stain(at_once, settings.nuclear_stain)

    def counted(part: torch.Tensor) -> torch.Tensor:
        sizes.append(len(part))
        return white_balance(part)

    monkeypatch.setattr(appearance, "white_balance", counted)
    monkeypatch.setattr(appearance, "_PIXELS_AT_ONCE", 7 * side**2)
    assert torch.equal(prepare(images, settings), at_once)
    assert sizes == [6, 6, 5, 5]  # of 22, at most 7 at a time and none alone


def test_no_image_gives_no_image() -> None:
    settings = ImageSettings(size_px=32)
    assert prepare(torch.empty(0, 3, 48, 48, dtype=torch.uint8), settings).shape == (0, 3, 32, 32)
