"""One call from cell classes to images: `render`.

Cells go through in fixed chunks, the last one padded. Every cell sits at the same place of an equally large chunk
whatever the batch, so it comes out bit for bit the same, and memory is bounded by the chunk (about 30 MB at 64 px,
130 MB at 128).
"""

from dataclasses import replace

import torch

from wbc_common.cells import CLASSES_13
from wbc_common.errors import SettingError
from wbc_simulations.phantom.imaging import blurred, compressed, illuminated, photographed, transmitted
from wbc_simulations.phantom.leukocyte import find_regions, paint
from wbc_simulations.phantom.scene import Grid, Scene, set_scene
from wbc_simulations.phantom.settings import Domain
from wbc_simulations.phantom.shapes import ridge
from wbc_simulations.phantom.surroundings import (
    find_red_cells,
    indented,
    paint_neighbour,
    paint_red_cells,
    paint_small_things,
)
from wbc_simulations.phantom.traits import Traits, traits_for

CHUNK = 32
_MIN_PX = 24


def render(
    cell_classes: torch.Tensor,
    patients: torch.Tensor,
    domain: Domain,
    *,
    size_px: int,
    seed: int,
    device: str = "cpu",
) -> torch.Tensor:
    """Images of cells, uint8 [B, 3, size_px, size_px], RGB.

    The same (seed, place in the batch, class, patient, domain) gives the same image; patients share their latents
    by number.

    Args:
        cell_classes: int64 [B], indices into CLASSES_13.
        patients: int64 [B], patient numbers.
        domain: the clinic's stain, optics, camera and framing.
        size_px: width and height.
        seed: of the study.
        device: where to compute; the result stays there.

    Raises:
        SettingError: shapes, classes or size that cannot be rendered.
    """
    _check(cell_classes, patients, size_px)
    images = torch.empty(len(cell_classes), 3, size_px, size_px, dtype=torch.uint8, device=device)
    for first in range(0, len(cell_classes), CHUNK):
        part = slice(first, first + CHUNK)
        traits = _chunk(cell_classes[part], patients[part], domain, seed=seed, first=first, device=device)
        pixels = _image(set_scene(traits, domain, size_px=size_px))
        images[part] = pixels[: len(images[part])]
    return images


def nucleus_and_cell_areas(
    cell_classes: torch.Tensor, patients: torch.Tensor, domain: Domain, *, size_px: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Areas in µm² of nucleus and cell as `render` draws them, float32 [B] each: the ground truth for checks."""
    _check(cell_classes, patients, size_px)
    found: list[tuple[torch.Tensor, torch.Tensor]] = []
    for first in range(0, len(cell_classes), CHUNK):
        part = slice(first, first + CHUNK)
        traits = _chunk(cell_classes[part], patients[part], domain, seed=seed, first=first, device="cpu")
        scene = set_scene(traits, domain, size_px=size_px)
        regions = find_regions(scene)
        pixel = scene.grid.px_um[:, 0, 0] ** 2
        found.append((regions.nucleus.sum((1, 2)) * pixel, regions.cell.sum((1, 2)) * pixel))
    count = len(cell_classes)
    return torch.cat([n for n, _ in found])[:count], torch.cat([c for _, c in found])[:count]


def _check(cell_classes: torch.Tensor, patients: torch.Tensor, size_px: int) -> None:
    if cell_classes.dtype != torch.int64 or cell_classes.dim() != 1 or patients.shape != cell_classes.shape:
        raise SettingError(
            f"got classes {cell_classes.dtype} {tuple(cell_classes.shape)} and patients {tuple(patients.shape)}, "
            "expected two int64 vectors of one length",
            remedy="pass one class index and one patient number per cell",
        )
    if len(cell_classes) and not 0 <= int(cell_classes.min()) <= int(cell_classes.max()) < len(CLASSES_13):
        raise SettingError(
            f"class indices reach from {int(cell_classes.min())} to {int(cell_classes.max())}, expected 0 to 12",
            remedy="use indices into wbc_common.cells.CLASSES_13",
        )
    if size_px < _MIN_PX:
        raise SettingError(f"size_px is {size_px}", remedy=f"render at {_MIN_PX} px or more")


def _chunk(
    classes: torch.Tensor, patients: torch.Tensor, domain: Domain, *, seed: int, first: int, device: str
) -> Traits:
    """Draws of one chunk, padded to CHUNK cells with its last."""
    padding = CHUNK - len(classes)
    classes = torch.cat([classes, classes[-1:].expand(padding)]).to(device)
    patients = torch.cat([patients, patients[-1:].expand(padding)]).to(device)
    return traits_for(classes, patients, domain, seed=seed, first=first)


def _image(scene: Scene) -> torch.Tensor:
    """The scene through microscope and camera, uint8 [CHUNK, 3, H, W]."""
    traits, grid, domain = scene.traits, scene.grid, scene.domain
    dyes, edges = _specimen(scene)
    light = blurred(transmitted(dyes, edges, traits, domain), grid, traits, domain.optics)
    pixels = photographed(illuminated(light, grid, traits, domain.optics), traits, domain)
    return compressed(pixels, domain.camera.jpeg_quality)


def _specimen(scene: Scene) -> tuple[torch.Tensor, torch.Tensor]:
    """Dye amounts [B, 3, H, W] of all that lies on the slide, and the neutral OD of refracting edges [B, H, W]."""
    regions, red = find_regions(scene), find_red_cells(scene)
    body = indented(regions.cell, red, scene)
    white = paint(scene, replace(regions, cell=body))
    neighbour, its_nucleus = paint_neighbour(scene)
    uncovered = 1 - body
    purple = paint_small_things(scene) * (1 - 0.7 * body) + 0.7 * its_nucleus * uncovered
    free = uncovered * (1 - neighbour)
    plasma = scene.traits.of_domain("plasma", scene.domain.smear.plasma_od)
    eosin = plasma * free + 0.16 * neighbour * uncovered
    background = torch.stack([purple, purple + eosin, paint_red_cells(red, scene) * free], dim=1)
    ring = scene.traits.of_domain("edge ring", scene.domain.optics.edge_ring_od)
    return white + background, ring * _edges(regions.cell_distance, red.distance, scene.grid)


def _edges(cell: torch.Tensor, red: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Dark line on a border and a bright one outside it, as a refracting edge shows out of focus; [B, H, W]."""
    width = grid.px_um.clamp_min(0.3)
    nearest = torch.minimum(cell, red)
    return ridge(nearest, width) - 0.6 * ridge(nearest - 2.2 * width, width)
