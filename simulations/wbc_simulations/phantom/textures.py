"""Periodic texture tiles, made once and looked up at random offset, angle and scale.

Noise and granules evaluated per pixel would cost more than all else together; a lookup costs a few nanoseconds.
Tiles repeat after 16 units (unit: correlation length, or granule spacing), further than a nucleus is wide. They are
the same for every seed and clinic, so they carry no information; what varies is where a cell looks. Spots: cellular
noise (Worley, SIGGRAPH 1996) with one point per square.
"""

import functools
import math
from dataclasses import dataclass

import torch

from wbc_common.seeds import torch_generator

TILE = 256
UNITS = 16
RED_TILE = 512
RED_TILE_UM = 60.0
_RED_ROWS, _RED_COLUMNS = 10, 9
_RED_RADIUS_UM = 3.6  # red cell diameter 7.2 µm (Bain, Blood Cells, 5th ed.)
_LIFT = 1 << 14  # multiple of every tile: makes lookup coordinates positive before truncation


@dataclass(frozen=True)
class Textures:
    """Flattened tiles, float32 [TILE²] (red cells: [RED_TILE²]).

    Attributes:
        smooth_x, smooth_y: band-limited noise of correlation length 1 unit, zero mean, unit variance.
        clumps: chromatin-like blocks, in about [−1, 1].
        grain: finer noise, unit variance.
        spot_distance: to the nearest of scattered points, in spacings.
        spot_label: a uniform number per point.
        red_x, red_y: vector to the nearest red cell's centre, µm.
        red_depth: distance inside that red cell's edge, µm (negative outside).
        red_label: a uniform number per red cell.
    """

    smooth_x: torch.Tensor
    smooth_y: torch.Tensor
    clumps: torch.Tensor
    grain: torch.Tensor
    spot_distance: torch.Tensor
    spot_label: torch.Tensor
    red_x: torch.Tensor
    red_y: torch.Tensor
    red_depth: torch.Tensor
    red_label: torch.Tensor


@functools.cache
def textures(device: str = "cpu") -> Textures:
    """The tiles on a device; the same everywhere, since they are drawn on the CPU."""
    generator = torch_generator("phantom textures")
    smooth = [_noise(generator, length=1.0) for _ in range(2)]
    blocks, grain = _noise(generator, length=0.8), _noise(generator, length=0.35)
    clumps = torch.tanh(1.3 * (blocks + 0.35 * grain))
    tiles = [*smooth, clumps, grain, *_spots(generator), *_red_cells(generator)]
    return Textures(*(tile.reshape(-1).contiguous().to(device) for tile in tiles))


def _noise(generator: torch.Generator, *, length: float) -> torch.Tensor:
    """Periodic Gaussian noise [TILE, TILE] of the given correlation length in units, unit variance."""
    white = torch.randn(TILE, TILE, generator=generator)
    frequency = torch.fft.fftfreq(TILE) * TILE / UNITS  # cycles per unit
    square = frequency[:, None] ** 2 + frequency[None, :] ** 2
    noise: torch.Tensor = torch.fft.ifft2(torch.fft.fft2(white) * torch.exp(-square * (2.2 * length) ** 2)).real
    noise = noise - noise.mean()
    return noise / noise.std()


def _wrapped(difference: torch.Tensor, period: float) -> torch.Tensor:
    return difference - period * torch.round(difference / period)


def _spots(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Distance to the nearest jittered grid point, and its label, both [TILE, TILE]."""
    square = torch.arange(UNITS, dtype=torch.float32)
    points = torch.stack(torch.meshgrid(square, square, indexing="ij"), -1).reshape(-1, 2)
    points = points + 0.5 + 0.85 * (torch.rand(points.shape, generator=generator) - 0.5)
    labels = torch.rand(len(points), generator=generator)
    axis = (torch.arange(TILE) + 0.5) * (UNITS / TILE)
    dy = _wrapped(axis[:, None] - points[:, 0], UNITS)  # [TILE, P]
    dx = _wrapped(axis[:, None] - points[:, 1], UNITS)
    nearest = [(dy[row] ** 2 + dx**2).min(dim=1) for row in range(TILE)]
    distance = torch.stack([n.values for n in nearest]).sqrt()
    return distance, labels[torch.stack([n.indices for n in nearest])]


def _red_cells(generator: torch.Generator) -> tuple[torch.Tensor, ...]:
    """Vector to the centre of the nearest red cell, depth below its edge, label: each [RED_TILE, RED_TILE]."""
    rows, columns = torch.meshgrid(torch.arange(_RED_ROWS), torch.arange(_RED_COLUMNS), indexing="ij")
    count = _RED_ROWS * _RED_COLUMNS
    jitter = 1.6 * (torch.rand(2, count, generator=generator) - 0.5)
    centre_y = (rows.reshape(-1) + 0.5) * (RED_TILE_UM / _RED_ROWS) + jitter[0]
    stagger = 0.25 + 0.5 * (rows.reshape(-1) % 2)
    centre_x = (columns.reshape(-1) + stagger) * (RED_TILE_UM / _RED_COLUMNS) + jitter[1]
    radius = _RED_RADIUS_UM * (1 + 0.14 * (torch.rand(count, generator=generator) - 0.5))
    stretch = 1 + 0.3 * (torch.rand(count, generator=generator) - 0.5)
    turn = math.pi * torch.rand(count, generator=generator)
    label = torch.rand(count, generator=generator)
    axis = (torch.arange(RED_TILE) + 0.5) * (RED_TILE_UM / RED_TILE)
    vector_x = _wrapped(centre_x - axis[:, None], RED_TILE_UM)  # [RED_TILE, P]
    found = []
    for row in range(RED_TILE):
        vector_y = _wrapped(centre_y - axis[row], RED_TILE_UM)
        along = (vector_x * torch.cos(turn) + vector_y * torch.sin(turn)) * stretch
        across = (vector_y * torch.cos(turn) - vector_x * torch.sin(turn)) / stretch
        depth, which = (radius - torch.sqrt(along**2 + across**2)).max(dim=1)
        chosen_x = vector_x.gather(1, which[:, None])[:, 0]
        found.append(torch.stack([chosen_x, vector_y[which], depth, label[which]]))
    return tuple(torch.stack(found, dim=1))


def tile_index(u: torch.Tensor, v: torch.Tensor, *, size: int = TILE) -> torch.Tensor:
    """Flat index into a tile for texel coordinates, int32 [B, H, W]; coordinates wrap around."""
    column = (u + _LIFT).to(torch.int32) & (size - 1)
    row = (v + _LIFT).to(torch.int32) & (size - 1)
    return row * size + column


def look_up(tile: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """The tile's values at the indices, float32 of the index's shape."""
    return tile.index_select(0, index.reshape(-1)).reshape(index.shape)
