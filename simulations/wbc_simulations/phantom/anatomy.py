"""The geometry of one cell: its outline, and its nucleus as lobes along a bent spine joined by necks.

One parameterisation covers every nuclear shape. Five discs sit on a spine and four necks join them: with full necks
it is a round, oval, kidney or band nucleus of half-width `slenderness`; with two to five discs and thin necks, a
segmented one. Its area is held at that of the equivalent circle: π t² + 2 t l = π R² gives the spine's length l = π
R (1 − q²) / (2 q) for half-width t = q R.
"""

import math
from dataclasses import dataclass

import torch

from wbc_simulations.phantom.morphology import MAX_LOBES
from wbc_simulations.phantom.settings import Domain
from wbc_simulations.phantom.traits import Traits

ABSENT = -99.0  # radius of a lobe or neck that is not there


@dataclass(frozen=True)
class Nucleus:
    """Lobes and necks in µm from the cell's centre.

    Attributes:
        x, y, radius: float32 [B, 5] lobe centres and radii; radius ABSENT where there is no such lobe.
        neck: float32 [B, 4], half-width midway between lobes j and j+1, as a share of their radii; ABSENT without
            lobe j+1.
        wobble_um, edge_um: float32 [B, 1, 1], outline irregularity and width of its fading.
        hof_x, hof_y: float32 [B, 1, 1], the Golgi zone in the nucleus's hollow.
        equivalent_um: float32 [B, 1, 1], radius of the circle of equal area.
    """

    x: torch.Tensor
    y: torch.Tensor
    radius: torch.Tensor
    neck: torch.Tensor
    wobble_um: torch.Tensor
    edge_um: torch.Tensor
    hof_x: torch.Tensor
    hof_y: torch.Tensor
    equivalent_um: torch.Tensor


@dataclass(frozen=True)
class Outline:
    """The cell's border, each float32 [B, 1, 1]: radius and wobble in µm, axis ratio, angle."""

    radius_um: torch.Tensor
    wobble_um: torch.Tensor
    elongation: torch.Tensor
    direction: torch.Tensor


@dataclass(frozen=True)
class Anatomy:
    """What a cell looks like before it is stained."""

    outline: Outline
    nucleus: Nucleus


def draw_anatomy(traits: Traits, domain: Domain) -> Anatomy:
    """Outline and nucleus of every cell of the chunk."""
    outline = _draw_outline(traits, domain)
    return Anatomy(outline, _draw_nucleus(traits, domain, outline.radius_um))


def _draw_outline(traits: Traits, domain: Domain) -> Outline:
    size = traits.of_domain("cell size", domain.cohort.cell_size, low=0.7)
    radius = traits.of_class("cell_diameter_um", 6.5, 26.0) * size / 2
    return Outline(
        radius_um=radius,
        wobble_um=radius * traits.of_class("cell_wobble"),
        elongation=1 + traits.of_class("cell_elongation"),
        direction=traits.between("cell direction", 0.0, math.pi),
    )


def _draw_nucleus(traits: Traits, domain: Domain, cell_radius: torch.Tensor) -> Nucleus:
    size = traits.of_domain("nucleus size", domain.cohort.nucleus_size, low=0.8)
    equivalent = (cell_radius * (traits.of_class("nucleus_ratio", 0.3, 0.96) * size).clamp_max(0.96))[:, :, 0]
    lobes = _lobe_count(traits)  # [B, 1]
    x, y, radius = _spine(traits, equivalent, lobes)
    x, y, hollow_x, hollow_y = _placed(traits, x, y, radius, cell_radius[:, :, 0])
    return Nucleus(
        x=x,
        y=y,
        radius=radius,
        neck=_necks(traits, lobes),
        wobble_um=(equivalent[:, :, None]) * traits.of_class("nucleus_wobble"),
        edge_um=traits.of_class("nucleus_edge_um", 0.05),
        hof_x=(x.mean(1, keepdim=True) + 0.8 * equivalent * hollow_x)[:, :, None],
        hof_y=(y.mean(1, keepdim=True) + 0.8 * equivalent * hollow_y)[:, :, None],
        equivalent_um=equivalent[:, :, None],
    )


def _lobe_count(traits: Traits) -> torch.Tensor:
    """1.0 to 5.0 by the class's probabilities, float32 [B, 1]."""
    cumulative = traits.textbook("lobes").cumsum(dim=1)
    passed = traits.cell.uniform("lobes") > cumulative[:, :-1] - 1e-6
    return 1.0 + passed.sum(dim=1, keepdim=True).float()


def _spine(
    traits: Traits, equivalent: torch.Tensor, lobes: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Lobe centres around (0, 0) and radii, each [B, 5] in µm."""
    single = lobes == 1
    slender = traits.of_class("slenderness", 0.36, 1.0)[:, :, 0]
    length = math.pi * equivalent * (1 - slender**2) / (2 * slender)
    lobe_radius = equivalent / lobes.sqrt()
    uneven = 1 + traits.cell.between("lobe size", -0.22, 0.18, MAX_LOBES)
    taper = 1 + 0.5 * (1 - slender) * traits.cell.between("taper", -0.5, 0.5, MAX_LOBES)
    radius = torch.where(single, slender * equivalent * taper, lobe_radius * uneven)
    gaps = lobe_radius * traits.cell.between("lobe gap", 1.7, 2.35, MAX_LOBES - 1)
    step = torch.where(single, length / (MAX_LOBES - 1), gaps)
    heading = traits.cell.angle("spine heading") + _turns(traits, single).cumsum(dim=1)
    zero = torch.zeros_like(lobes)
    x = torch.cat([zero, (step * torch.cos(heading)).cumsum(1)], dim=1)
    y = torch.cat([zero, (step * torch.sin(heading)).cumsum(1)], dim=1)
    present = single | (torch.arange(MAX_LOBES, device=lobes.device) < lobes)
    weight = present / present.sum(1, keepdim=True)
    x, y = x - (x * weight).sum(1, keepdim=True), y - (y * weight).sum(1, keepdim=True)
    return x * present, y * present, torch.where(present, radius, ABSENT)


def _turns(traits: Traits, single: torch.Tensor) -> torch.Tensor:
    """Change of heading at each of the 4 steps, radians [B, 4].

    One in six joints bends the other way (S and Z shapes).
    """
    bend = traits.of_class("bend_degrees", -60.0, 290.0)[:, :, 0] * (math.pi / 180)
    jitter = 0.2 * traits.cell.normal("joint jitter", MAX_LOBES - 1)
    side = 1 - 2 * traits.cell.chance("spine side", 0.5)
    back = (traits.cell.uniform("joint side", MAX_LOBES - 1) < 0.17).float()
    joint = bend * (1 - 2 * back) * (1 + jitter)
    s_shaped = traits.cell.chance("s shape", 0.12)
    half = torch.tensor([1.0, 1.0, -1.0, -1.0], device=bend.device)
    arc = bend / (MAX_LOBES - 1) * (1 + jitter) * torch.where(s_shaped > 0, half, torch.ones_like(half))
    return side * torch.where(single, arc, joint)


def _necks(traits: Traits, lobes: torch.Tensor) -> torch.Tensor:
    """Neck widths as a share of the lobes' radii, [B, 4]; full for an unsegmented nucleus."""
    mean_sd = traits.textbook("bridge")
    neck = (mean_sd[:, :1] + mean_sd[:, 1:] * traits.cell.normal("bridge", MAX_LOBES - 1)).clamp(0.1, 0.9)
    present = torch.arange(1, MAX_LOBES, device=lobes.device) < lobes
    return torch.where(lobes == 1, 1.0, torch.where(present, neck, ABSENT))


def _placed(
    traits: Traits, x: torch.Tensor, y: torch.Tensor, radius: torch.Tensor, cell_radius: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The nucleus folded into the cell and moved off centre, and the unit vector towards its hollow.

    Lobes that would stick out are drawn in together; the nucleus then leans to the side its spine bulges to, as in
    reality the Golgi zone fills the hollow.
    """
    room = 0.93 * cell_radius
    distance = torch.sqrt(x**2 + y**2) + 1e-6
    fit = ((room - radius).clamp_min(0.2) / distance).amin(1, keepdim=True).clamp_max(1.0)
    x, y = x * fit, y * fit
    reach = (distance * fit + radius).amax(1, keepdim=True)
    angle = traits.cell.angle("nucleus side")
    bulge_x = x[:, 2:3] * (radius[:, 2:3] > 0) + 0.25 * cell_radius * torch.cos(angle)
    bulge_y = y[:, 2:3] * (radius[:, 2:3] > 0) + 0.25 * cell_radius * torch.sin(angle)
    norm = torch.sqrt(bulge_x**2 + bulge_y**2) + 1e-6
    to_x, to_y = bulge_x / norm, bulge_y / norm
    lean = traits.of_class("eccentricity", 0.0, 1.0)[:, :, 0] * (room - reach).clamp_min(0.0)
    return x + lean * to_x, y + lean * to_y, -to_x, -to_y
