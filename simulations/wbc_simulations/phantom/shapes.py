"""Signed distances and soft masks on the pixel grid.

Distances are in µm, negative inside, as in graphics (Hart, The Visual Computer 1996); a mask is a distance through
a soft step about one pixel wide, so shapes are right at 64 and at 128 px without supersampling. Domain warping by
noise makes outlines irregular.
"""

import math

import torch

from wbc_simulations.phantom.anatomy import Nucleus, Outline
from wbc_simulations.phantom.morphology import MAX_LOBES
from wbc_simulations.phantom.scene import Grid, Scene
from wbc_simulations.phantom.textures import TILE, UNITS, look_up, tile_index

_TEXELS = TILE / UNITS
_DENSE_COVERAGE = 0.18


def texture_index(scene: Scene, name: str, unit_um: torch.Tensor | float) -> torch.Tensor:
    """Where each pixel looks in a tile of `unit_um` units, turned and moved at random per cell; int32 [B, H, W]."""
    grid, traits = scene.grid, scene.traits
    angle, move = traits.cell.angle(name)[:, :, None], traits.cell.between(f"{name} move", 0.0, TILE, 2)
    cos, sin = torch.cos(angle) * (_TEXELS / unit_um), torch.sin(angle) * (_TEXELS / unit_um)
    u = cos * grid.x + sin * grid.y + move[:, 0, None, None]
    v = cos * grid.y - sin * grid.x + move[:, 1, None, None]
    return tile_index(u, v)


def soft_inside(distance: torch.Tensor, width: torch.Tensor) -> torch.Tensor:
    """1 inside, 0 outside, a logistic step `width` µm wide between; shape of `distance`."""
    return torch.sigmoid((distance * (-4.0 / width)).clamp(-30.0, 30.0))


def ridge(distance: torch.Tensor, width: torch.Tensor | float) -> torch.Tensor:
    """A bump of height 1 along the border, exp(−(d/width)²)."""
    return torch.exp(-((distance / width) ** 2).clamp_max(30.0))


def warped(scene: Scene, index: torch.Tensor, amplitude_um: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixel positions moved by smooth noise of the given standard deviation."""
    dx, dy = look_up(scene.tiles.smooth_x, index), look_up(scene.tiles.smooth_y, index)
    return scene.grid.x + amplitude_um * dx, scene.grid.y + amplitude_um * dy


def outline_distance(x: torch.Tensor, y: torch.Tensor, outline: Outline) -> torch.Tensor:
    """Distance to the cell's border, an ellipse in warped coordinates; [B, H, W]."""
    cos, sin = torch.cos(outline.direction), torch.sin(outline.direction)
    root = torch.sqrt(outline.elongation)
    along, across = (cos * x + sin * y) / root, (cos * y - sin * x) * root
    return torch.sqrt(along**2 + across**2) - outline.radius_um


def nucleus_distance(x: torch.Tensor, y: torch.Tensor, nucleus: Nucleus) -> torch.Tensor:
    """Distance to the union of lobes and necks; [B, H, W]."""
    part = [_column(nucleus, lobe) for lobe in range(MAX_LOBES)]
    distance = torch.full_like(x, math.inf)
    for lobe, (cx, cy, radius) in enumerate(part):
        px, py = x - cx, y - cy
        distance = torch.minimum(distance, torch.sqrt(px * px + py * py) - radius)
        if lobe + 1 < MAX_LOBES:
            neck = nucleus.neck[:, lobe, None, None]
            distance = torch.minimum(distance, _neck_distance(px, py, part[lobe], part[lobe + 1], neck))
    return distance


def _column(nucleus: Nucleus, lobe: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return (
        nucleus.x[:, lobe, None, None],
        nucleus.y[:, lobe, None, None],
        nucleus.radius[:, lobe, None, None],
    )


def _neck_distance(
    px: torch.Tensor,
    py: torch.Tensor,
    here: tuple[torch.Tensor, ...],
    there: tuple[torch.Tensor, ...],
    neck: torch.Tensor,
) -> torch.Tensor:
    """Distance to an hourglass from lobe to lobe: half-width runs from one radius to the other, times `neck` midway.

    `px`, `py` are relative to the first lobe's centre.
    """
    bx, by = there[0] - here[0], there[1] - here[1]
    along = ((px * bx + py * by) / (bx * bx + by * by + 1e-6)).clamp(0.0, 1.0)
    qx, qy = px - along * bx, py - along * by
    waist = 1 - (1 - neck) * (1 - (2 * along - 1) ** 4)
    half_width = (here[2] + (there[2] - here[2]) * along) * waist
    present = neck > 0
    return torch.sqrt(qx * qx + qy * qy) - torch.where(present, half_width, -99.0)


def spots(scene: Scene, name: str, *, coverage: torch.Tensor, diameter_um: torch.Tensor) -> torch.Tensor:
    """Scattered discs of varied size that cover about `coverage` of the plane; 0 to 1, [B, H, W].

    Few spots are many with most left out, so that the tile is never stretched to where its texels show. Discs finer
    than a pixel fade, as the light of a whole pixel is averaged, instead of flickering.
    """
    dense = coverage.clamp(_DENSE_COVERAGE, 0.9)
    spacing = diameter_um * 0.5 * torch.sqrt(math.pi / dense)
    index = texture_index(scene, name, spacing)
    label = look_up(scene.tiles.spot_label, index)
    kept = (label < coverage / dense).to(label.dtype)
    size = 0.75 + 0.5 * (label * 16).frac()
    distance = look_up(scene.tiles.spot_distance, index) * spacing - 0.5 * diameter_um * size
    edge = torch.maximum(0.25 * diameter_um, scene.grid.px_um)
    return kept * (diameter_um / scene.grid.px_um).clamp_max(1.0) * soft_inside(distance, edge)


def capsule_distance(grid: Grid, ends: torch.Tensor, radius_um: float) -> torch.Tensor:
    """Distance to a rod; ends float32 [B, 4] = x0, y0, x1, y1 in µm; [B, H, W]."""
    x0, y0, x1, y1 = (ends[:, i, None, None] for i in range(4))
    px, py, bx, by = grid.x - x0, grid.y - y0, x1 - x0, y1 - y0
    along = ((px * bx + py * by) / (bx * bx + by * by + 1e-6)).clamp(0.0, 1.0)
    return torch.sqrt((px - along * bx) ** 2 + (py - along * by) ** 2) - radius_um
