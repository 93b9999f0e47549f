"""What lies around the cell: red cells with their pallor, platelets, stain precipitate, at times a second white cell.

Red cells whose centre the white cell would cover are left out, and those that touch it press into it
(`red_cell_indent`), as in a smear; their density, thickness and pallor belong to the domain and the patient.
"""

import math
from dataclasses import dataclass

import torch

from wbc_simulations.phantom.scene import Scene
from wbc_simulations.phantom.shapes import ridge, soft_inside, spots, texture_index
from wbc_simulations.phantom.textures import RED_TILE, RED_TILE_UM, look_up, tile_index

_FULL_COVERAGE = 0.72  # of the red-cell tile when none is left out
_MAX_PLATELETS = 3


@dataclass(frozen=True)
class RedCells:
    """Red cells: distance to the nearest border in µm (negative inside) and mask, each float32 [B, H, W]."""

    distance: torch.Tensor
    mask: torch.Tensor


def find_red_cells(scene: Scene) -> RedCells:
    """The red cells that this field shows."""
    traits, grid = scene.traits, scene.grid
    angle, move = traits.cell.angle("red cells"), traits.cell.between("red cells move", 0.0, RED_TILE, 2)
    size = traits.of_domain("red cell size", scene.domain.cohort.cell_size, low=0.7)
    texels = RED_TILE / RED_TILE_UM / size
    cos, sin = torch.cos(angle)[:, :, None], torch.sin(angle)[:, :, None]
    u = (cos * grid.x + sin * grid.y) * texels + move[:, 0, None, None]
    v = (cos * grid.y - sin * grid.x) * texels + move[:, 1, None, None]
    index = tile_index(u, v, size=RED_TILE)
    # A tile's vector holds for the texel's middle: without the rest, pixels of one red cell disagree on where its
    # centre is.
    to_x = look_up(scene.tiles.red_x, index) * size - ((u + RED_TILE).frac() - 0.5) / texels
    to_y = look_up(scene.tiles.red_y, index) * size - ((v + RED_TILE).frac() - 0.5) / texels
    centre_x, centre_y = grid.x + cos * to_x - sin * to_y, grid.y + sin * to_x + cos * to_y
    share = traits.of_domain("red cell coverage", scene.domain.smear.red_cell_coverage) / _FULL_COVERAGE
    clear = scene.anatomy.outline.radius_um + traits.between("red cell clearance", 1.6, 3.4)
    shown = (look_up(scene.tiles.red_label, index) < share) & (centre_x**2 + centre_y**2 > clear**2)
    distance = torch.where(shown, -look_up(scene.tiles.red_depth, index) * size, 9.0)
    return RedCells(distance, soft_inside(distance, grid.px_um.clamp_min(0.15)))


def indented(cell: torch.Tensor, red: RedCells, scene: Scene) -> torch.Tensor:
    """The white cell's mask where red cells press into it, [B, H, W]."""
    return cell * (1 - scene.traits.of_class("red_cell_indent", 0.0, 1.0) * red.mask)


def paint_red_cells(red: RedCells, scene: Scene) -> torch.Tensor:
    """Haemoglobin amount, float32 [B, H, W]: a biconcave disc is thin in the middle third."""
    traits, smear = scene.traits, scene.domain.smear
    od = traits.of_domain("red cell od", smear.red_cell_od, low=0.02)
    pallor = traits.of_domain("pallor", smear.pallor).clamp_max(0.95)
    inward = (-red.distance).clamp_min(0.0)
    hollow = torch.sigmoid((inward - 1.9) * 3.2)
    return od * red.mask * (1 - pallor * hollow + 0.12 * ridge(inward - 0.9, 0.8))


def paint_small_things(scene: Scene) -> torch.Tensor:
    """Platelets and precipitate as purple dye (azure = eosin), float32 [B, H, W]."""
    traits, grid, domain = scene.traits, scene.grid, scene.domain
    found = torch.zeros_like(grid.x)
    field = grid.px_um * grid.x.shape[-1]
    index = texture_index(scene, "platelet grain", 0.9)
    grain = 1 + 0.35 * look_up(scene.tiles.grain, index)
    for number in range(_MAX_PLATELETS):
        shown = traits.cell.chance(f"platelet {number}", domain.smear.platelets_per_field / _MAX_PLATELETS)
        radius = traits.between(f"platelet radius {number}", 0.8, 1.5)
        x = grid.x - field * traits.between(f"platelet x {number}", -0.5, 0.5)
        y = grid.y - field * traits.between(f"platelet y {number}", -0.5, 0.5)
        disc = soft_inside(torch.sqrt(x * x + (1.3 * y) ** 2) - radius, grid.px_um.clamp_min(0.5))
        traits, grid, domain = scene.traits, scene.grid, scene.domain
    found = torch.maximum(found, 0.36 * shown[:, :, None] * disc * grain)
    coverage = traits.of_domain("precipitate", domain.stain.precipitate).clamp_max(0.1)
    diameter = traits.between("precipitate size", 0.3, 0.8)
    return found + 0.9 * spots(scene, "precipitate", coverage=coverage, diameter_um=diameter)


def paint_neighbour(scene: Scene) -> tuple[torch.Tensor, torch.Tensor]:
    """A second white cell at the image's edge: masks of its body and of its lobed nucleus, each [B, H, W]."""
    traits, grid = scene.traits, scene.grid
    shown = traits.cell.chance("neighbour", scene.domain.smear.neighbour_cell_share)[:, :, None]
    angle, radius = traits.between("neighbour at", 0.0, 2 * math.pi), traits.between("neighbour radius", 5.0, 7.5)
    away = scene.anatomy.outline.radius_um + radius + traits.between("neighbour gap", -0.3, 3.0)
    x, y = grid.x - away * torch.cos(angle), grid.y - away * torch.sin(angle)
    body = shown * soft_inside(torch.sqrt(x * x + y * y) - radius, grid.px_um.clamp_min(0.3))
    nucleus = torch.zeros_like(body)
    for lobe in range(3):
        turn = traits.between(f"neighbour lobe {lobe}", 0.0, 2 * math.pi)
        reach = 0.45 * radius
        square = (x - reach * torch.cos(turn)) ** 2 + (y - reach * torch.sin(turn)) ** 2
        size = radius * traits.between(f"neighbour lobe size {lobe}", 0.3, 0.5)
        nucleus = torch.maximum(nucleus, soft_inside(torch.sqrt(square) - size, grid.px_um.clamp_min(0.3)))
    return body, nucleus * body
