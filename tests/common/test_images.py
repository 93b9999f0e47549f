"""Images that hospitals really have, good and broken, through `read_image`; and the background's colour."""

import contextlib
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin

from wbc_common.errors import DataError
from wbc_common.images import BACKGROUND_LEVEL, MAX_PIXELS, read_image, white_balance

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def _saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def _noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_an_rgb_image_of_the_right_size_comes_back_pixel_for_pixel(tmp_path: Path) -> None:
    pixels = _noise(16, 16)
    read = read_image(_saved(Image.fromarray(pixels), tmp_path / "a.png"), 16)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, pixels)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "tiff", "jpg", "jpeg"])
def test_each_format_gives_the_colour_that_was_saved(tmp_path: Path, suffix: str) -> None:
    read = read_image(_saved(Image.new("RGB", (20, 20), (200, 100, 50)), tmp_path / f"a.{suffix}"), 16)
    assert np.abs(read.astype(int) - (200, 100, 50)).max() <= 3  # JPEG is lossy


@pytest.mark.parametrize(
    ("image", "colour"),
    [
        (Image.new("L", (8, 8), 77), (77, 77, 77)),
        (Image.new("RGBA", (8, 8), (*RED, 255)), RED),
        (Image.new("RGBA", (8, 8), (*RED, 0)), WHITE),
        (Image.new("LA", (8, 8), (77, 255)), (77, 77, 77)),
        (Image.new("RGB", (8, 8), GREEN).convert("P", palette=Image.Palette.ADAPTIVE), GREEN),
    ],
    ids=["grey", "opaque", "transparent becomes white", "grey with alpha", "palette"],
)
def test_each_pixel_mode_becomes_rgb(tmp_path: Path, image: Image.Image, colour: tuple[int, int, int]) -> None:
    read = read_image(_saved(image, tmp_path / "a.png"), 8)
    assert (read == colour).all()


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    path = _saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), tmp_path / "a.tif")  # no cyan, full magenta and yellow
    assert (read_image(path, 8) == RED).all()


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    pixels = np.zeros((16, 16, 3), dtype=np.uint8)
    pixels[:8] = WHITE  # bright above
    exif = Image.Exif()
    exif[0x0112] = 3  # "turned by 180°"
    read = read_image(_saved(Image.fromarray(pixels), tmp_path / "a.png", exif=exif), 16)
    np.testing.assert_array_equal(read, pixels[::-1, ::-1])


def test_text_and_colour_profile_leave_no_trace_in_the_pixels(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Patient", "Jane Roe")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pixels = _noise(16, 16)
    bare = read_image(_saved(Image.fromarray(pixels), tmp_path / "bare.png"), 16)
    read = read_image(_saved(Image.fromarray(pixels), tmp_path / "a.png", pnginfo=info, icc_profile=profile), 16)
    assert type(read) is np.ndarray
    np.testing.assert_array_equal(read, bare)


def test_a_crop_that_is_not_square_is_padded_centred_by_its_edge(tmp_path: Path) -> None:
    rows = np.zeros((2, 6, 3), dtype=np.uint8)
    rows[0], rows[1] = 10, 20
    expected = np.zeros((6, 6, 3), dtype=np.uint8)
    expected[:3], expected[3:] = 10, 20  # two rows added above and two below
    np.testing.assert_array_equal(read_image(_saved(Image.fromarray(rows), tmp_path / "a.png"), 6), expected)


def test_reducing_averages_instead_of_skipping_pixels(tmp_path: Path) -> None:
    checks = ((np.indices((64, 64)).sum(axis=0) % 2) * 255).astype(np.uint8)
    read = read_image(_saved(Image.fromarray(checks), tmp_path / "a.png"), 16)
    assert np.abs(read[2:-2, 2:-2].astype(int) - 127).max() <= 3


def test_the_same_field_of_view_shows_a_cell_at_the_same_size_for_two_scales(tmp_path: Path) -> None:
    def disc(side: int, radius: float) -> Image.Image:
        y, x = np.indices((side, side)) - (side - 1) / 2
        return Image.fromarray(np.where(x**2 + y**2 <= radius**2, 0, 255).astype(np.uint8))

    # A cell of 10 µm across: 50 px at 0.2 µm/px in a wide crop, 100 px at 0.1 µm/px in a tight one.
    wide = read_image(_saved(disc(120, 25), tmp_path / "wide.png"), 64, um_per_px=0.2, field_um=16)
    tight = read_image(_saved(disc(110, 50), tmp_path / "tight.png"), 64, um_per_px=0.1, field_um=16)
    area = np.pi * (5 / 16 * 64) ** 2  # radius 5 µm of 16 µm on 64 px
    for read in (wide, tight):
        assert (255 - read[..., 0].astype(float)).sum() / 255 == pytest.approx(area, rel=0.03)


def test_the_scale_alone_changes_nothing(tmp_path: Path) -> None:
    path = _saved(Image.fromarray(_noise(20, 30)), tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(path, 16, um_per_px=0.1), read_image(path, 16))


def test_an_impossible_scale_is_refused(tmp_path: Path) -> None:
    path = _saved(Image.new("RGB", (8, 8)), tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png.*8000000 pixels wide"):
        read_image(path, 16, um_per_px=1e-5, field_um=80)


def _png_16_bit_rgb(path: Path) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + bytes(4 * 6) for _ in range(4))
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def _png_claiming(width: int, height: int) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        Image.new("RGB", (4, 4)).save(path, format="PNG")
        content = bytearray(path.read_bytes())
        content[16:24] = struct.pack(">II", width, height)
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
        path.write_bytes(content)

    return write


def _tiff_16_bit_rgb(path: Path) -> None:
    """A baseline TIFF of 2 × 2 pixels, 16 bits in each of three channels, by hand: Pillow cannot write one."""
    entries = [(256, 3, 1, 2), (257, 3, 1, 2), (258, 3, 3, 200), (259, 3, 1, 1), (262, 3, 1, 2)]
    entries += [(273, 4, 1, 300), (277, 3, 1, 3), (278, 3, 1, 2), (279, 4, 1, 24)]
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    content = bytearray(324)
    content[: 8 + len(directory) + 4] = struct.pack("<2sHI", b"II", 42, 8) + directory + bytes(4)
    content[200:206] = struct.pack("<3H", 16, 16, 16)
    path.write_bytes(content)


def _truncated(suffix: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        Image.fromarray(_noise(64, 64)).save(path, format=suffix)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return write


def _pages(path: Path) -> None:
    page = Image.new("RGB", (8, 8))
    page.save(path, format="TIFF", save_all=True, append_images=[page, page])


BROKEN = {
    "16-bit colour PNG": (_png_16_bit_rgb, "16 bits per channel"),
    "16-bit grey PNG": (lambda path: Image.new("I;16", (8, 8)).save(path, format="PNG"), "16 bits per channel"),
    "16-bit colour TIFF": (_tiff_16_bit_rgb, "16 bits per channel"),
    "16-bit grey TIFF": (lambda path: Image.new("I;16", (8, 8)).save(path, format="TIFF"), "16 bits per channel"),
    "32-bit float TIFF": (lambda path: Image.new("F", (8, 8)).save(path, format="TIFF"), "32 bits per channel"),
    "multi-page TIFF": (_pages, "3 pages"),
    "bilevel": (lambda path: Image.new("1", (8, 8)).save(path, format="PNG"), "pixel mode 1"),
    "empty file": (lambda path: path.write_bytes(b""), r"empty \(0 bytes\)"),
    "text": (lambda path: path.write_text("hello"), "not a readable image"),
    "another format": (lambda path: Image.new("RGB", (8, 8)).save(path, format="GIF"), "not a readable image"),
    "missing": (lambda path: None, "does not exist"),
    "folder": (lambda path: path.mkdir(), "cannot be read"),
    "truncated JPEG": (_truncated("JPEG"), "cannot be read|damaged"),
    "truncated PNG": (_truncated("PNG"), "cannot be read|damaged"),
    "truncated BMP": (_truncated("BMP"), "cannot be read|damaged"),
    "truncated TIFF": (_truncated("TIFF"), "cannot be read|damaged|not a readable"),
    "bomb": (_png_claiming(60_000, 60_000), f"more than {MAX_PIXELS:,} pixels"),
    "whole slide": (_png_claiming(6_000, 5_000), "6000 × 5000 pixels"),
    "strip": (_png_claiming(4, 900), "strip of 4 × 900"),
    "no width": (_png_claiming(0, 4), "."),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_read_whole_is_refused_by_name_with_a_next_step(tmp_path: Path, name: str) -> None:
    write, problem = BROKEN[name]
    path = tmp_path / "cell_7"
    write(path)
    with pytest.raises(DataError, match=problem) as refusal:
        read_image(path, 16)
    assert "cell_7" in refusal.value.problem
    assert refusal.value.remedy


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(["PNG", "JPEG", "BMP", "TIFF"]),
    place=st.floats(0, 1, exclude_max=True),
    damage=st.binary(min_size=1, max_size=40),
)
def test_a_damaged_file_is_either_read_or_refused_with_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, kind: str, place: float, damage: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / f"damaged.{kind.lower()}"
    Image.fromarray(_noise(24, 24)).save(path, format=kind)
    content = bytearray(path.read_bytes())
    start = int(place * len(content))
    content[start : start + len(damage)] = damage
    path.write_bytes(content)
    # Any other exception fails the test.
    with contextlib.suppress(DataError):
        assert read_image(path, 16).shape == (16, 16, 3)


def _smear(background: tuple[int, int, int]) -> torch.Tensor:
    """A purple cell of 8 × 8 on a flat background of 16 × 16; uint8 [1, 3, 16, 16]."""
    image = torch.tensor(background, dtype=torch.uint8)[None, :, None, None].repeat(1, 1, 16, 16)
    image[:, :, 4:12, 4:12] = torch.tensor([100, 50, 100], dtype=torch.uint8)[None, :, None, None]
    return image


def test_white_balance_brings_a_yellow_background_to_an_even_grey() -> None:
    balanced = white_balance(_smear((240, 220, 140)))
    assert balanced.dtype == torch.uint8
    assert balanced[0, :, 0, 0].tolist() == [BACKGROUND_LEVEL] * 3
    # 100 · 245/240, 50 · 245/220, 100 · 245/140
    assert balanced[0, :, 8, 8].tolist() == [102, 56, 175]


def test_white_balance_cancels_the_colour_of_the_lamp() -> None:
    smear = _smear((200, 200, 200)).float()
    tint = torch.tensor([1.0, 0.9, 0.7])[None, :, None, None]
    difference = (
        white_balance((smear * tint).round().to(torch.uint8)).int() - white_balance(smear.to(torch.uint8)).int()
    )
    assert difference.abs().max() <= 1  # rounding to whole grey levels


def test_white_balance_treats_each_image_by_itself_however_many_there_are() -> None:
    smears = torch.cat([_smear((240, 220, 140)), _smear((180, 200, 250))] * 200)  # [400, 3, 16, 16]
    balanced = white_balance(smears)
    for place in (0, 1, 399):
        assert torch.equal(balanced[place], white_balance(smears[place : place + 1])[0])


def test_white_balance_leaves_a_balanced_image_alone_and_a_black_one_black() -> None:
    balanced = _smear((BACKGROUND_LEVEL,) * 3)
    assert torch.equal(white_balance(balanced), balanced)
    black = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    assert torch.equal(white_balance(black), black)
    assert white_balance(black[:0]).shape == (0, 3, 8, 8)


def test_white_balance_lifts_a_dark_channel_fourfold_at_most() -> None:
    dark = torch.full((1, 3, 8, 8), 10, dtype=torch.uint8)
    assert white_balance(dark).unique().tolist() == [40]


def test_a_few_glaring_pixels_do_not_set_the_background() -> None:
    smear = _smear((200, 200, 200))
    smear[:, :, 0, :8] = 255  # 8 of 256 pixels, 3 %
    assert white_balance(smear)[0, 0, 15, 15] == BACKGROUND_LEVEL
