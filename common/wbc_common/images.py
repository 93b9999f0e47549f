"""Reads one cell image, at the same scale and in the same form at every clinic, and evens out its background colour.

Pillow decodes; what it would do silently is refused here with a reason: a 16-bit image loses its low byte, a
multi-page file shows page 1 only. Only the formats named in `FORMATS` are tried, so that an odd file meets few
decoders. What comes back is a bare pixel array: EXIF (after its orientation is applied), text and colour profiles stay
behind.

White balance divides by the background I₀ of docs/method.md §3, estimated per image. Stain normalisation by statistics
of the whole image (Macenko, Reinhard) spoils blood smears and is not offered; `wbc_common.nuclear_stain` looks at the
nucleus alone.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from wbc_common.errors import DataError

FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
MAX_PIXELS = 25_000_000  # a crop of one cell has thousands; more is a whole slide or a decompression bomb
MAX_ASPECT = 4  # a longer strip is no crop of one cell, and its square would be huge
BACKGROUND_LEVEL = 245  # where the background comes to lie: bright, and short of clipping its own noise
BACKGROUND_PERCENTILE = 95.0
MAX_GAIN = 4.0  # more would only lift the noise of a nearly black channel

_OPAQUE = ("RGB", "L", "CMYK", "YCbCr")
_WITH_ALPHA = ("RGBA", "LA", "PA", "P")
_TIFF_BITS_PER_SAMPLE = 258
_PNG_BIT_DEPTH_BYTE = 24


def read_image(
    path: Path, size_px: int, *, um_per_px: float | None = None, field_um: float | None = None
) -> NDArray[np.uint8]:
    """The image as an upright square, uint8 [size_px, size_px, 3], RGB.

    A crop that is not square is padded at its shorter side, centred, by repeating its edge. With both `um_per_px` and
    `field_um` the central field of that width is taken instead (padded likewise where the crop is smaller, to a whole
    pixel), so that all clinics show cells at one scale (docs/method.md §5.2). Reduced with antialiasing.

    Raises:
        DataError: naming the file, what is wrong with it and what to do.
    """
    pixels = _decode(path)  # [H, W, 3]
    side = max(pixels.shape[:2])
    if um_per_px is not None and field_um is not None:
        side = _field_px(path, um_per_px, field_um)
    square = _centred(_centred(pixels, side, axis=0), side, axis=1)
    resized = Image.fromarray(square).resize((size_px, size_px), Image.Resampling.BICUBIC)
    return np.asarray(resized, dtype=np.uint8)


def white_balance(images: torch.Tensor) -> torch.Tensor:
    """Each image divided by its own background colour.

    I₀ of a channel is that channel's 95th percentile over the image; the channel is scaled so that I₀ becomes 245, by
    a factor of at most 4, and clipped at 255. Limit: a crop so tight that under 5 % of it is background takes the
    brightest part of the cell for background, and that cell comes out too bright. Our deviation: I₀ lands on 245
    rather than on 255, so that the background keeps its noise.

    Args:
        images: uint8 [N, 3, H, W].

    Returns:
        uint8 [N, 3, H, W].
    """
    flat = images.flatten(start_dim=2)  # [N, 3, H·W]
    rank = max(1, round(flat.shape[2] * BACKGROUND_PERCENTILE / 100))
    brightest = np.partition(flat.cpu().numpy(), rank - 1, axis=2)[:, :, rank - 1]  # half the time of torch's kthvalue
    background = torch.from_numpy(brightest).to(images.device).float()  # [N, 3]
    gain = (BACKGROUND_LEVEL / background.clamp(min=1)).clamp(max=MAX_GAIN)
    return (images * gain[:, :, None, None]).round_().clamp_(max=255).to(torch.uint8)


def _decode(path: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(path, formats=FORMATS) as image:
            _check_form(path, image)
            return np.asarray(_as_rgb(ImageOps.exif_transpose(image)), dtype=np.uint8)
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"image {path} does not exist", remedy="check the path, or remove the entry") from error
    except UnidentifiedImageError as error:
        raise DataError(f"image {path} {_why_unknown(path)}", remedy=_REPLACE) from error
    except Image.DecompressionBombError as error:
        raise DataError(f"image {path} claims far more than {MAX_PIXELS:,} pixels", remedy=_CROP) from error
    except OSError as error:
        raise DataError(f"image {path} cannot be read: {error.strerror or error}", remedy=_REPLACE) from error
    except Exception as error:  # damaged bytes make Pillow's parsers raise nearly anything: struct.error, SyntaxError
        raise DataError(f"image {path} is damaged: {type(error).__name__}: {error}", remedy=_REPLACE) from error


_REPLACE = "replace the file by an intact PNG, JPEG, BMP or TIFF, or remove it from the data"
_CROP = "cut the image to one cell and save it again"


def _why_unknown(path: Path) -> str:
    if path.stat().st_size == 0:
        return "is empty (0 bytes)"
    return f"is not a readable image; expected one of {', '.join(FORMATS)}"


def _check_form(path: Path, image: Image.Image) -> None:
    """Refuse what Pillow would decode only in part, before a pixel is decoded."""
    width, height = image.size
    pages = getattr(image, "n_frames", 1)
    bits = _bits_per_channel(path, image)
    if width * height > MAX_PIXELS:
        raise DataError(f"image {path} has {width} × {height} pixels, more than {MAX_PIXELS:,}", remedy=_CROP)
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise DataError(f"image {path} is a strip of {width} × {height} pixels, no crop of one cell", remedy=_CROP)
    if pages != 1:
        raise DataError(f"image {path} has {pages} pages; expected one", remedy="save each page as a file of its own")
    if bits > 8:
        raise DataError(
            f"image {path} has {bits} bits per channel; expected 8",
            remedy="convert it to 8 bits with the brightness scale that the laboratory uses",
        )
    if image.mode not in _OPAQUE + _WITH_ALPHA:
        raise DataError(f"image {path} has pixel mode {image.mode}; expected colour or grey", remedy="save it as RGB")


def _bits_per_channel(path: Path, image: Image.Image) -> int:
    """The file's own depth: Pillow's mode says RGB for 16-bit colour too, having dropped the low byte."""
    if image.mode.startswith("I;16"):
        return 16
    if image.mode in ("I", "F"):
        return 32
    if image.format == "PNG":
        with path.open("rb") as file:
            return file.read(_PNG_BIT_DEPTH_BYTE + 1)[_PNG_BIT_DEPTH_BYTE]
    tags = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    return max(int(bits) for bits in tags.get(_TIFF_BITS_PER_SAMPLE, (8,)))


def _as_rgb(image: Image.Image) -> Image.Image:
    """RGB; what is transparent becomes white, as the background of a smear is."""
    if image.mode in _OPAQUE:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def _field_px(path: Path, um_per_px: float, field_um: float) -> int:
    side = round(field_um / um_per_px)
    if not 1 <= side <= MAX_PIXELS**0.5:
        raise DataError(
            f"image {path}: a field of {field_um} µm at {um_per_px} µm per pixel is {side} pixels wide",
            remedy="correct um_per_px (a 100× objective gives about 0.05 to 0.2)",
        )
    return side


def _centred(pixels: NDArray[np.uint8], side: int, *, axis: int) -> NDArray[np.uint8]:
    """`pixels` cut or edge-padded to `side` along `axis`, centre kept."""
    extent = pixels.shape[axis]
    if extent >= side:
        start = (extent - side) // 2
        return pixels.take(range(start, start + side), axis=axis)
    before = (side - extent) // 2
    widths = [(0, 0)] * pixels.ndim
    widths[axis] = (before, side - extent - before)
    return np.pad(pixels, widths, mode="edge")
