"""Painting one white cell: how much azure, eosin and haemoglobin lies over each pixel.

Cytoplasm (texture, rim, Golgi zone, vacuoles), granules under and over the nucleus, chromatin, nucleoli, Auer rods.
Amounts are in units of the domain's dye vectors; colour happens in `imaging`.
"""

import math
from dataclasses import dataclass

import torch

from wbc_simulations.phantom.scene import Scene
from wbc_simulations.phantom.settings import Rgb
from wbc_simulations.phantom.shapes import (
    capsule_distance,
    nucleus_distance,
    outline_distance,
    ridge,
    soft_inside,
    spots,
    texture_index,
    warped,
)
from wbc_simulations.phantom.textures import look_up
from wbc_simulations.phantom.traits import Traits

_AZURE, _EOSIN = 0, 1
_VILLI_UM = 1.4


@dataclass(frozen=True)
class Regions:
    """Where the cell and its nucleus are: distances in µm and masks 0 to 1, each float32 [B, H, W]."""

    cell_distance: torch.Tensor
    nucleus_distance: torch.Tensor
    cell: torch.Tensor
    nucleus: torch.Tensor


def find_regions(scene: Scene) -> Regions:
    """Warped outlines of cell and nucleus; the nucleus never leaves the cell."""
    traits, grid = scene.traits, scene.grid
    outline, nucleus = scene.anatomy.outline, scene.anatomy.nucleus
    index = texture_index(scene, "cell warp", outline.radius_um * 0.75)
    cell_distance = outline_distance(*warped(scene, index, outline.wobble_um), outline)
    villi = texture_index(scene, "fringe", _VILLI_UM)
    cell_distance = cell_distance + traits.of_class("fringe_um") * look_up(scene.tiles.grain, villi)
    index = texture_index(scene, "nucleus warp", nucleus.equivalent_um * 0.6)
    inner = nucleus_distance(*warped(scene, index, nucleus.wobble_um), nucleus)
    inner = torch.maximum(inner, cell_distance + 0.15)
    cell = soft_inside(cell_distance, torch.maximum(grid.px_um, nucleus.edge_um))
    return Regions(cell_distance, inner, cell, soft_inside(inner, torch.maximum(grid.px_um, nucleus.edge_um)))


def paint(scene: Scene, regions: Regions) -> torch.Tensor:
    """Dye amounts of the white cell, float32 [B, 3, H, W]: azure, eosin, haemoglobin."""
    cytoplasm = _cytoplasm(scene, regions)
    nucleus = _nucleus(scene, regions)
    inside = regions.nucleus[:, None]
    layers = cytoplasm * (1 - inside) + nucleus * inside
    for kind in ("fine", "coarse"):
        layers = _with_granules(layers, scene, kind, regions)
    layers = _with_auer_rod(layers, scene, regions)
    return layers * regions.cell[:, None]


def _dyes(traits: Traits, name: str, sd: float, binding: Rgb) -> torch.Tensor:
    """A class's dye amounts under the stain's `binding`, varied between cells by the relative `sd`, [B, 3, 1, 1]."""
    varied = (1 + sd * traits.cell.normal(name, 3)) * (1 + sd * traits.cell.normal(f"{name} all"))
    amounts = traits.textbook(name) * torch.tensor(binding, device=traits.classes.device)
    return (amounts * varied.clamp_min(0.2))[:, :, None, None]


def _cytoplasm(scene: Scene, regions: Regions) -> torch.Tensor:
    traits, grid = scene.traits, scene.grid
    gain = traits.of_domain("cytoplasm gain", scene.domain.stain.cytoplasm_gain)
    index = texture_index(scene, "cytoplasm", traits.between("cytoplasm scale", 0.8, 1.8))
    depth = (regions.cell_distance / (-0.5 * scene.anatomy.outline.radius_um)).clamp(0.0, 1.0)
    amount = 0.8 + 0.2 * depth + traits.of_class("rim") * (1 - depth)
    amount = amount * (1 + traits.of_class("cytoplasm_texture") * look_up(scene.tiles.grain, index))
    reach = 0.5 * scene.anatomy.nucleus.equivalent_um
    square = (grid.x - scene.anatomy.nucleus.hof_x) ** 2 + (grid.y - scene.anatomy.nucleus.hof_y) ** 2
    amount = amount * (1 - traits.of_class("hof", 0.0, 0.8) * torch.exp(-(square / reach**2).clamp_max(30.0)))
    amount = amount * (1 - 0.8 * _vacuoles(scene))
    dyes = _dyes(traits, "cytoplasm_dyes", 0.14, scene.domain.stain.cytoplasm_binding)
    return dyes * (gain * amount.clamp_min(0.0))[:, None]


def _vacuoles(scene: Scene) -> torch.Tensor:
    traits = scene.traits
    coverage = traits.of_class("vacuole_coverage", 0.0, 0.3)
    diameter = traits.between("vacuole diameter", 0.8, 1.6)
    return spots(scene, "vacuoles", coverage=coverage, diameter_um=diameter)


def _nucleus(scene: Scene, regions: Regions) -> torch.Tensor:
    traits = scene.traits
    clinic = traits.of_domain("stain contrast", scene.domain.stain.chromatin_contrast)
    patient = traits.of_domain("chromatin", scene.domain.cohort.chromatin)
    contrast = traits.of_class("chromatin_contrast", 0.02) * clinic * patient
    index = texture_index(scene, "chromatin", traits.of_class("chromatin_scale_um", 0.3))
    chromatin = look_up(scene.tiles.clumps, index) + 0.35 * look_up(scene.tiles.grain, index)
    membrane = ridge(regions.nucleus_distance + 0.25, 0.3)
    amount = 1 + contrast * (chromatin + 0.6 * membrane)
    nucleoli = _nucleoli(scene)
    dyes = _dyes(traits, "nucleus_dyes", 0.07, scene.domain.stain.nucleus_binding)
    dyes = dyes * (amount * (1 - 0.35 * nucleoli)).clamp_min(0.1)[:, None]
    # A nucleolus is RNA: it keeps its blue while the purple around it thins.
    dyes[:, _AZURE] += 0.08 * nucleoli
    return dyes


def _nucleoli(scene: Scene) -> torch.Tensor:
    """Up to three pale round nucleoli, 0 to 1, [B, H, W]."""
    traits, grid = scene.traits, scene.grid
    shown = traits.chance("nucleoli_share")
    found = torch.zeros_like(grid.x)
    for number in range(3):
        away = 0.62 * scene.anatomy.nucleus.equivalent_um * traits.between(f"nucleolus reach {number}", 0.0, 1.0).sqrt()
        angle = traits.between(f"nucleolus angle {number}", 0.0, 2 * math.pi)
        radius = traits.between(f"nucleolus radius {number}", 0.45, 1.15)
        present = shown if number == 0 else shown * traits.cell.chance(f"nucleolus {number}", 0.6)[:, :, None]
        x = grid.x - scene.anatomy.nucleus.x.mean(1)[:, None, None] - away * torch.cos(angle)
        y = grid.y - scene.anatomy.nucleus.y.mean(1)[:, None, None] - away * torch.sin(angle)
        inside = soft_inside(torch.sqrt(x * x + y * y) - radius, grid.px_um.clamp_min(0.5))
        found = torch.maximum(found, present * inside)
    return found


def _with_granules(layers: torch.Tensor, scene: Scene, kind: str, regions: Regions) -> torch.Tensor:
    """`layers` with one population of granules: they replace what they cover in cytoplasm, add over the nucleus."""
    traits = scene.traits
    density = traits.of_domain("granules", scene.domain.cohort.granules, low=0.2)
    coverage = (traits.of_class(f"{kind}.coverage") * density).clamp_max(0.85)
    lost = traits.of_domain("dissolved", scene.domain.stain.dissolved).clamp_max(0.95)
    lost = lost * traits.textbook("soluble")[:, :, None]
    coverage = coverage * (1 - 0.7 * lost)
    diameter = traits.of_class(f"{kind}.diameter_um", 0.15)
    found = spots(scene, f"{kind} granules", coverage=coverage, diameter_um=diameter)
    over = traits.textbook(f"{kind}.over_nucleus")[:, :, None]
    seen = (found * (1 - (1 - over) * regions.nucleus))[:, None]
    gain = traits.of_domain("granule gain", scene.domain.stain.granule_gain)[:, None]
    dyes = _dyes(traits, f"{kind}.dyes", 0.12, scene.domain.stain.granule_binding) * (gain * (1 - lost)[:, None])
    covered = layers * (1 - 0.6 * seen * (1 - regions.nucleus[:, None]))
    return covered + dyes * seen * (1 - 0.45 * regions.nucleus[:, None])


def _with_auer_rod(layers: torch.Tensor, scene: Scene, regions: Regions) -> torch.Tensor:
    """`layers` with a red-purple rod beside the nucleus where the class and chance say so."""
    traits, grid = scene.traits, scene.grid
    reach = scene.anatomy.outline.radius_um[:, :, 0] * traits.cell.between("auer reach", 0.6, 0.85)
    at, turn = traits.cell.angle("auer at"), traits.cell.angle("auer turn")
    half = traits.cell.between("auer half length", 1.0, 2.0)
    x, y = reach * torch.cos(at), reach * torch.sin(at)
    dx, dy = half * torch.cos(turn), half * torch.sin(turn)
    ends = torch.cat([x - dx, y - dy, x + dx, y + dy], dim=1)
    rod = soft_inside(capsule_distance(grid, ends, 0.18), torch.maximum(grid.px_um, grid.px_um.new_tensor(0.15)))
    rod = rod * traits.chance("auer_share") * (1 - 0.5 * regions.nucleus)
    layers = layers.clone()
    layers[:, _AZURE] += 0.45 * rod
    layers[:, _EOSIN] += 0.75 * rod
    return layers
