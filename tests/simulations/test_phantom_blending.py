"""Blended domains: always valid, between their parents, repeatable."""

import numpy as np
import pytest
import torch

from wbc_common.cells import CLASSES_13
from wbc_simulations.phantom import Domain, blended_domain, domain_names, load_domain, render
from wbc_simulations.phantom.settings import Spread


def numbers(domain: Domain, part: str) -> np.ndarray:
    """Every number of one part, in order."""

    def flat(value: object) -> list[float]:
        if isinstance(value, dict):
            return [number for inner in value.values() for number in flat(inner)]
        if isinstance(value, tuple | list):
            return [number for inner in value for number in flat(inner)]
        return [value] if isinstance(value, float) else []

    return np.array(flat(domain.model_dump()[part]))


def test_five_hundred_blends_are_valid_domains_of_different_names() -> None:
    assert len({blended_domain(number, seed=3).name for number in range(500)}) == 500


def test_the_number_and_the_seed_decide_a_blend() -> None:
    assert blended_domain(4, seed=1) == blended_domain(4, seed=1)
    assert blended_domain(4, seed=1).stain != blended_domain(5, seed=1).stain
    assert blended_domain(4, seed=1).stain != blended_domain(4, seed=2).stain


def test_a_blend_of_one_domain_is_that_domain_but_for_what_binds_dye() -> None:
    blend, parent = blended_domain(0, seed=0, names=["pale_wright"]), load_domain("pale_wright")
    for part in ("smear", "optics", "camera", "framing", "cohort"):
        np.testing.assert_allclose(numbers(blend, part), numbers(parent, part), rtol=1e-12)


@pytest.mark.parametrize("part", ["smear", "optics", "camera"])
def test_a_blend_of_two_lies_on_their_line_or_a_fifth_beyond(part: str) -> None:
    one, other = load_domain("pale_wright"), load_domain("high_mag_dark")
    a, b = numbers(one, part), numbers(other, part)
    low, high = np.minimum(a, b), np.maximum(a, b)
    room = 0.2 * (high - low) + 1e-9
    for number in range(20):
        blend = numbers(blended_domain(number, seed=0, names=["pale_wright", "high_mag_dark"]), part)
        assert (blend >= low - room).all()
        assert (blend <= high + room).all()


def test_parts_are_drawn_apart() -> None:
    """In some blend of many the stain is near one parent and the camera near the other."""
    names = ["pale_wright", "high_mag_dark"]
    parents = [load_domain(name) for name in names]

    def nearer(domain: Domain, part: str) -> int:
        return int(np.argmin([np.abs(numbers(domain, part) - numbers(parent, part)).sum() for parent in parents]))

    pairs = {
        (nearer(blend, "stain"), nearer(blend, "camera"))
        for blend in (blended_domain(number, seed=0, names=names) for number in range(40))
    }
    assert pairs == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_all_shipped_domains_are_mixed_by_default() -> None:
    azure = {blended_domain(number, seed=0).stain.azure_rgb_od for number in range(50)}
    assert len(azure) > len(domain_names())


def test_what_binds_dye_is_drawn_anew_around_the_textbook() -> None:
    stains = [blended_domain(number, seed=0).stain for number in range(300)]
    for place in ("nucleus", "cytoplasm", "granule"):
        gains = np.log([getattr(stain, f"{place}_binding") for stain in stains])
        assert np.abs(gains.mean(axis=0)).max() < 0.06  # three standard errors
        assert 0.2 < gains.std() < 0.3  # 0.3 cut at two deviations is 0.26


def test_wide_blends_differ_in_strengths_alone_and_reach_further() -> None:
    usual = [blended_domain(number, seed=2) for number in range(60)]
    wide = [blended_domain(number, seed=2, wide=True) for number in range(60)]
    for one, other in zip(usual, wide, strict=True):
        assert one.framing == other.framing
        assert one.optics == other.optics

    def spread(domains: list[Domain], part: str, quantity: str) -> float:
        return float(np.std([np.log(getattr(getattr(domain, part), quantity).mean) for domain in domains]))

    for part, quantity in (("stain", "intensity"), ("stain", "granule_gain"), ("camera", "noise")):
        assert spread(wide, part, quantity) > 1.2 * spread(usual, part, quantity)


def test_only_wide_blends_wash_granules_out_and_only_those_of_basophils() -> None:
    assert blended_domain(1, seed=2).stain.dissolved.mean == 0
    domain = load_domain("dm96_mgg")
    gone = domain.model_copy(update={"stain": domain.stain.model_copy(update={"dissolved": Spread(mean=1.0)})})
    basophil, eosinophil = (torch.full((16,), CLASSES_13.index(name)) for name in ("basophil", "eosinophil"))
    patients = torch.arange(16)

    def drawn(classes: torch.Tensor, look: Domain) -> torch.Tensor:
        return render(classes, patients, look, size_px=64, seed=0).float()

    assert torch.equal(drawn(eosinophil, domain), drawn(eosinophil, gone))
    assert drawn(basophil, gone).mean() > drawn(basophil, domain).mean() + 1  # fewer dark granules: a lighter cell
