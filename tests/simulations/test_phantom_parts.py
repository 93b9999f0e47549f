"""The phantom's parts against hand-worked numbers: draws, nuclear area, Beer-Lambert, blur, granules."""

import math
from itertools import pairwise

import pytest
import torch

from wbc_common.cells import CLASSES_13
from wbc_simulations.phantom.anatomy import ABSENT, Nucleus
from wbc_simulations.phantom.draws import Draws
from wbc_simulations.phantom.imaging import blurred, compressed, transmitted
from wbc_simulations.phantom.morphology import textbook
from wbc_simulations.phantom.scene import Grid, Scene, set_scene
from wbc_simulations.phantom.settings import Domain, Spread, load_domain
from wbc_simulations.phantom.shapes import capsule_distance, nucleus_distance, spots
from wbc_simulations.phantom.traits import Traits, traits_for


def draws(count: int, seed: int = 1) -> Draws:
    return Draws(seed, torch.arange(count))


def traits(name: str, count: int, domain: Domain) -> Traits:
    classes = torch.full((count,), CLASSES_13.index(name))
    return traits_for(classes, torch.zeros_like(classes), domain, seed=0, first=0)


def scene(name: str, count: int, size_px: int) -> Scene:
    domain = load_domain("dm96_mgg")
    return set_scene(traits(name, count, domain), domain, size_px=size_px)


def test_uniform_draws_have_the_mean_and_variance_of_a_uniform():
    drawn = draws(40_000).uniform("x")
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert float(drawn.mean()) == pytest.approx(1 / 2, abs=0.006)
    assert float(drawn.var()) == pytest.approx(1 / 12, abs=0.002)


def test_normal_draws_are_cut_at_two_and_a_half_standard_deviations():
    drawn = draws(40_000).normal("x")
    assert float(drawn.abs().max()) == pytest.approx(2.5, abs=0.01)
    assert float(drawn.mean()) == pytest.approx(0.0, abs=0.02)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (draws(20_000).uniform("a"), draws(20_000).uniform("b")),
        (draws(20_000, 1).uniform("a"), draws(20_000, 2).uniform("a")),
        (draws(20_001).uniform("a")[1:], draws(20_000).uniform("a")),
        (draws(20_000).uniform("a", 2)[:, 0], draws(20_000).uniform("a", 2)[:, 1]),
    ],
    ids=["names", "seeds", "neighbours", "columns"],
)
def test_draws_for_different_things_are_uncorrelated(one, other):
    both = torch.stack([one.flatten(), other.flatten()])
    assert abs(float(torch.corrcoef(both)[0, 1])) < 0.03  # 4 standard errors of 20,000 pairs


def test_a_draw_does_not_depend_on_how_many_are_drawn():
    assert torch.equal(draws(5).normal("x", 3), draws(500).normal("x", 3)[:5])


def plate(width_um: float, px: int) -> Grid:
    at = (torch.arange(px) + 0.5 - px / 2) * (width_um / px)
    x, y = at[None, None, :].expand(1, px, px), at[None, :, None].expand(1, px, px)
    return Grid(x, y, torch.full((1, 1, 1), width_um / px))


def nucleus(x: list[float], radius: list[float], neck: list[float]) -> Nucleus:
    one = torch.ones(1, 1, 1)
    return Nucleus(
        torch.tensor([x]), torch.zeros(1, 5), torch.tensor([radius]), torch.tensor([neck]), *(one for _ in range(5))
    )


def area_um2(distance: torch.Tensor, grid: Grid) -> float:
    return float((distance < 0).sum() * grid.px_um.squeeze() ** 2)


def test_a_straight_nucleus_is_a_stadium():
    # Five discs of radius 1 at 0, 0.5, … 2 with full necks: π·1² + 2·1·2 = 7.14 µm².
    grid = plate(10.0, 400)
    shape = nucleus([-1.0, -0.5, 0.0, 0.5, 1.0], [1.0] * 5, [1.0] * 4)
    assert area_um2(nucleus_distance(grid.x, grid.y, shape), grid) == pytest.approx(math.pi + 4, rel=0.01)


def test_two_lobes_are_two_discs_and_a_thin_neck():
    # Discs of radius 1, 4 apart; between them (2 µm) a strand narrowing to 0.2: its area is under 2·2·0.6.
    grid = plate(12.0, 480)
    shape = nucleus([-2.0, 2.0, 0, 0, 0], [1.0, 1.0, ABSENT, ABSENT, ABSENT], [0.2, ABSENT, ABSENT, ABSENT])
    distance = nucleus_distance(grid.x, grid.y, shape)
    assert 2 * math.pi + 2 * 2 * 0.2 < area_um2(distance, grid) < 2 * math.pi + 2 * 2 * 0.6
    waist = (distance[0, :, 240] < 0).sum() * (12.0 / 480)
    assert float(waist) == pytest.approx(0.4, abs=0.06)


def test_a_rod_is_as_wide_as_asked():
    grid = plate(8.0, 400)
    rod = capsule_distance(grid, torch.tensor([[-1.0, 0.0, 1.0, 0.0]]), 0.5)
    assert area_um2(rod, grid) == pytest.approx(2 * 2 * 0.5 + math.pi * 0.25, rel=0.02)


def test_a_single_nucleus_keeps_its_area_from_round_to_band():
    # A band bent into its cell may overlap itself a little, so its area is allowed to fall short.
    for name, low in (("typical_lymphocyte", 0.9), ("myelocyte", 0.9), ("band_neutrophil", 0.8)):
        view = scene(name, 64, 160)
        drawn = view.anatomy.nucleus
        inside = nucleus_distance(view.grid.x, view.grid.y, drawn) < 0
        area = inside.sum((1, 2)) * view.grid.px_um[:, 0, 0] ** 2
        wanted = math.pi * drawn.equivalent_um[:, 0, 0] ** 2
        assert low < float((area / wanted).mean()) < 1.08, name


def test_granules_cover_what_they_are_asked_to():
    view = scene("eosinophil", 24, 192)
    for coverage in (0.05, 0.3, 0.6):
        asked = torch.full((24, 1, 1), coverage)
        found = spots(view, "some", coverage=asked, diameter_um=torch.full((24, 1, 1), 1.4))
        assert float(found.mean()) == pytest.approx(coverage, rel=0.3)


def plain(domain: Domain) -> Domain:
    """The domain without any variation of its stain."""
    exact = {"intensity": Spread(mean=1.0), "ph_shift": Spread(mean=0.0)}
    smear = domain.smear.model_copy(update={"thickness": Spread(mean=1.0)})
    return domain.model_copy(update={"stain": domain.stain.model_copy(update=exact), "smear": smear})


def test_one_unit_of_a_dye_transmits_exp_of_minus_its_absorption_and_two_units_the_square():
    domain = plain(load_domain("dm96_mgg"))
    cell, none = traits("monocyte", 1, domain), torch.zeros(1, 2, 2)
    dyes = torch.zeros(1, 3, 2, 2)
    dyes[:, 1] = 1.0  # eosin
    once = transmitted(dyes, none, cell, domain)
    wanted = torch.tensor([math.exp(-od) for od in domain.stain.eosin_rgb_od])
    assert torch.allclose(once[0, :, 0, 0], wanted, atol=1e-6)
    assert torch.allclose(transmitted(2 * dyes, none, cell, domain), once**2, atol=1e-6)


def test_a_high_ph_turns_the_same_cell_bluer():
    domain = plain(load_domain("dm96_mgg"))
    stain = domain.stain.model_copy(update={"ph_shift": Spread(mean=0.3)})
    blue = domain.model_copy(update={"stain": stain})
    dyes, none = torch.full((1, 3, 2, 2), 0.5), torch.zeros(1, 2, 2)
    cell = traits("monocyte", 1, domain)
    neutral, shifted = (transmitted(dyes, none, cell, d)[0, :, 0, 0] for d in (domain, blue))
    assert shifted[2] / shifted[0] > neutral[2] / neutral[0]


def test_blur_keeps_an_even_field_even_and_softens_an_edge():
    view, domain = scene("monocyte", 2, 64), load_domain("low_res_blur")
    light = torch.ones(2, 3, 64, 64)
    even = blurred(0.7 * light, view.grid, view.traits, domain.optics)
    assert torch.allclose(even, torch.tensor(0.7), atol=1e-5)
    light[:, :, :, 32:] = 0.0
    soft = blurred(light, view.grid, view.traits, domain.optics)
    steepest = soft.diff(dim=3).abs().amax(dim=(2, 3))
    assert (steepest < 0.7).all()


def test_jpeg_changes_pixels_a_little_and_no_quality_nothing():
    pixels = torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    assert compressed(pixels, None) is pixels
    flat = torch.full((1, 3, 32, 32), 120, dtype=torch.uint8)
    assert (compressed(flat, 90).int() - 120).abs().max() <= 2
    assert not torch.equal(compressed(pixels, 90), pixels)


def test_maturation_shrinks_the_nucleus_step_by_step_but_neighbours_overlap():
    line = ["myeloblast", "promyelocyte", "myelocyte", "metamyelocyte", "band_neutrophil"]
    ratios = [textbook()[name].nucleus_ratio for name in line]
    for (mean, sd), (next_mean, next_sd) in pairwise(ratios):
        assert next_mean < mean
        assert mean - next_mean < 2.5 * (sd + next_sd)


def test_every_class_names_its_source_and_its_lobes_are_probabilities():
    for name, morphology in textbook().items():
        assert morphology.source, name
        assert sum(morphology.lobes) == pytest.approx(1.0), name
