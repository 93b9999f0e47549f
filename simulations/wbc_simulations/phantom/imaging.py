"""From dye to pixels: Beer-Lambert, point spread, illumination, camera.

`OD = Σ amount · absorption` per channel and `T = exp(−OD)` (METHOD.md §3; Beer-Lambert per RGB channel as in
Ruifrok & Johnston 2001, with broad-band channels for wavelengths: a deviation they share). Blur acts on transmitted
light, since bright field is incoherent.
"""

import functools
import io
import math

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from wbc_common.seeds import torch_generator
from wbc_simulations.phantom.scene import Grid
from wbc_simulations.phantom.settings import Domain, Optics
from wbc_simulations.phantom.traits import Traits

_NOISE_TILE = 256


def transmitted(dyes: torch.Tensor, extra_od: torch.Tensor, traits: Traits, domain: Domain) -> torch.Tensor:
    """Transmitted light, float32 [B, 3, H, W] in RGB, from dye amounts [B, 3, H, W] and a neutral OD [B, H, W].

    `ph_shift` > 0 binds more azure and less eosin (bluer), < 0 the opposite.
    """
    stain = domain.stain
    intensity = traits.of_domain("stain intensity", stain.intensity, low=0.2)
    intensity = intensity * traits.of_domain("thickness", domain.smear.thickness, low=0.3)
    shift = traits.of_domain("ph shift", stain.ph_shift, low=-0.6)
    bound = torch.cat([intensity * (1 + shift), intensity * (1 - shift), torch.ones_like(shift)], dim=1)
    vectors = torch.tensor([stain.azure_rgb_od, stain.eosin_rgb_od, stain.haemoglobin_rgb_od], device=dyes.device)
    absorption = bound * vectors  # [B, dye, rgb]
    od = torch.einsum("bdhw,bdc->bchw", dyes, absorption)
    return torch.exp(-(od + extra_od[:, None]).clamp(-0.3, 6.0))


def blurred(light: torch.Tensor, grid: Grid, traits: Traits, optics: Optics) -> torch.Tensor:
    """`light` [B, 3, H, W] through a Gaussian point spread per channel, moved sideways by lateral colour.

    Widths add in squares: point spread, defocus, and the camera's own sampling. Blue and red focus apart
    (axial colour).
    """
    square = traits.of_domain("psf", optics.psf_um, low=0.05) ** 2 + (0.4 * optics.um_per_px) ** 2
    defocus = traits.of_domain("defocus", optics.defocus_um, low=-9.0)
    axial = traits.of_domain("axial colour", optics.axial_colour_um, low=-9.0)
    focus = torch.cat([defocus + axial, defocus, defocus - axial], dim=1)  # [B, 3, 1]
    sigma = (torch.sqrt(square + focus**2) / grid.px_um).clamp(0.25, _max_sigma(light.shape[-1]))
    side = traits.of_domain("lateral colour", optics.lateral_colour_um, low=-9.0) / grid.px_um
    angle = traits.cell.angle("lateral angle")[:, :, None]
    sign = torch.tensor([1.0, 0.0, -1.0], device=light.device)[None, :, None]
    taps_x = _taps(sigma, sign * side * torch.cos(angle), light.shape[-1])
    taps_y = _taps(sigma, sign * side * torch.sin(angle), light.shape[-1])
    return _separable(light, taps_x, taps_y)


def _max_sigma(size_px: int) -> float:
    return size_px / 24


def _taps(sigma: torch.Tensor, shift: torch.Tensor, size_px: int) -> torch.Tensor:
    """Normalised Gaussian taps around `shift`, [B, 3, taps]; their number depends on the image size only."""
    reach = math.ceil(2.5 * _max_sigma(size_px))
    place = torch.arange(-reach, reach + 1, device=sigma.device, dtype=torch.float32)
    # Cut before exp reaches denormal numbers, with which a CPU multiplies a hundred times slower.
    taps = torch.exp(-0.5 * (((place - shift.clamp(-2.0, 2.0)) / sigma) ** 2).clamp_max(60.0))
    return taps / taps.sum(dim=2, keepdim=True)


def _separable(light: torch.Tensor, taps_x: torch.Tensor, taps_y: torch.Tensor) -> torch.Tensor:
    count, channels, height, width = light.shape
    reach = taps_x.shape[2] // 2
    flat = F.pad(light, (reach,) * 4, mode="reflect").reshape(1, count * channels, height + 2 * reach, -1)
    flat = F.conv2d(flat, taps_x.reshape(count * channels, 1, 1, -1), groups=count * channels)
    flat = F.conv2d(flat, taps_y.reshape(count * channels, 1, -1, 1), groups=count * channels)
    return flat.reshape(count, channels, height, width)


def illuminated(light: torch.Tensor, grid: Grid, traits: Traits, optics: Optics) -> torch.Tensor:
    """`light` under an uneven lamp: darker corners and a slope across the field."""
    half = grid.px_um * (light.shape[-1] / 2)
    x, y = grid.x / half, grid.y / half
    angle = traits.cell.angle("gradient angle")[:, :, None]
    slope = traits.of_domain("gradient", optics.gradient, low=-0.3)
    vignette = traits.of_domain("vignette", optics.vignette)
    field = 1 + slope * (x * torch.cos(angle) + y * torch.sin(angle)) - vignette * 0.5 * (x * x + y * y)
    return light * field[:, None].clamp(0.2, 1.6)


def photographed(light: torch.Tensor, traits: Traits, domain: Domain) -> torch.Tensor:
    """Stored pixels, uint8 [B, 3, H, W]: white balance, colour matrix, gamma, flare, noise."""
    camera = domain.camera
    lamp = torch.tensor(camera.light_rgb, device=light.device)[None, :, None]
    cast = [traits.of_domain(f"white balance {c}", camera.white_balance, low=0.3) for c in "rgb"]
    gain = lamp * torch.cat(cast, dim=1) * traits.of_domain("exposure", camera.exposure, low=0.3)
    matrix = torch.tensor(camera.colour_matrix, device=light.device)
    seen = torch.einsum("ij,bjhw->bihw", matrix, light) * gain[:, :, :, None]
    gamma = traits.of_domain("gamma", camera.gamma, low=0.5)[:, None]
    flare = traits.of_domain("flare", camera.flare)[:, None].clamp_max(0.6)
    haze = gain.clamp_max(1.0)[:, :, :, None]
    seen = (1 - flare) * seen.clamp_min(1e-4) ** gamma + flare * haze * 0.75
    noise = traits.of_domain("noise", camera.noise)[:, None] * _sensor_noise(seen, traits)
    return ((seen + noise).clamp(0.0, 1.0) * 255 + 0.5).to(torch.uint8)


@functools.cache
def _noise_tile(device: str) -> torch.Tensor:
    generator = torch_generator("phantom sensor noise")
    return torch.randn(_NOISE_TILE * _NOISE_TILE, generator=generator).to(device)


def _sensor_noise(seen: torch.Tensor, traits: Traits) -> torch.Tensor:
    """White noise of unit variance, cut from a fixed tile at a random place per cell and channel; shape of `seen`."""
    tile = _noise_tile(str(seen.device))
    count, _, height, width = seen.shape
    move = (traits.cell.uniform("noise move", 6) * _NOISE_TILE).to(torch.int64).reshape(count, 3, 2, 1, 1)
    rows = torch.arange(height, device=seen.device)[:, None] + move[:, :, 0]
    columns = torch.arange(width, device=seen.device) + move[:, :, 1]
    index = (rows % _NOISE_TILE) * _NOISE_TILE + columns % _NOISE_TILE
    return tile[index]


def compressed(pixels: torch.Tensor, quality: int | None) -> torch.Tensor:
    """Pixels uint8 [B, 3, H, W] after a JPEG round trip (on the CPU); unchanged without a quality."""
    if quality is None:
        return pixels
    images = pixels.permute(0, 2, 3, 1).cpu().numpy()
    decoded = np.stack([_jpeg(image, quality) for image in images])
    return torch.from_numpy(decoded).permute(0, 3, 1, 2).contiguous().to(pixels.device)


def _jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))
