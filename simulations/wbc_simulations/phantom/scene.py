"""A chunk of cells before the microscope: who they are, what they look like, and the pixels that will see them.

Painters take a scene instead of six arguments. `set_scene` frames it: the window belongs to the domain.
"""

from dataclasses import dataclass

import torch

from wbc_simulations.phantom.anatomy import Anatomy, draw_anatomy
from wbc_simulations.phantom.settings import Domain
from wbc_simulations.phantom.textures import Textures, textures
from wbc_simulations.phantom.traits import Traits

_NARROWEST_FIELD_UM = 8.0


@dataclass(frozen=True)
class Grid:
    """Pixel centres relative to the cell's centre.

    Attributes:
        x, y: µm, float32 [B, H, W].
        px_um: width of a pixel, float32 [B, 1, 1].
    """

    x: torch.Tensor
    y: torch.Tensor
    px_um: torch.Tensor


@dataclass(frozen=True)
class Scene:
    """What painters need: the cells' draws, their clinic, their anatomy, the pixel grid and the texture tiles."""

    traits: Traits
    domain: Domain
    anatomy: Anatomy
    grid: Grid
    tiles: Textures


def set_scene(traits: Traits, domain: Domain, *, size_px: int) -> Scene:
    """Draw the anatomy of the chunk's cells and frame each."""
    anatomy = draw_anatomy(traits, domain)
    grid = _framed(traits, domain, anatomy.outline.radius_um, size_px)
    return Scene(traits, domain, anatomy, grid, textures(str(grid.x.device)))


def _framed(traits: Traits, domain: Domain, cell_radius_um: torch.Tensor, size_px: int) -> Grid:
    """Pixel centres around the cell, for the domain's framing."""
    framing = domain.framing
    box = framing.kind == "box"
    width = traits.of_domain("framing", framing.width, low=1.0 if box else _NARROWEST_FIELD_UM)
    px = (width * 2 * cell_radius_um if box else width) / size_px
    pixel = torch.arange(size_px, device=px.device, dtype=torch.float32) + 0.5 - size_px / 2
    offset_x = traits.of_domain("offset x", framing.offset_um, low=-99.0)
    offset_y = traits.of_domain("offset y", framing.offset_um, low=-99.0)
    shape = (len(px), size_px, size_px)
    x = (px * pixel[None, None, :] - offset_x).expand(shape).contiguous()
    y = (px * pixel[None, :, None] - offset_y).expand(shape).contiguous()
    return Grid(x, y, px)
