"""Domains between the shipped ones: domain randomisation (Tobin et al., IROS 2017) without new numbers by hand.

A network trained on nine looks learns nine looks. A blended domain takes each part (stain, smear, optics, camera,
framing, cohort) from two shipped domains, mixed at a random point on, or a little beyond, the line between them, so
that the stain of some meets the camera of others. What has no in-between (kind of framing, JPEG or not) comes from the
first of the two. How much dye each part of the cell binds is drawn anew: a class is then known by its shape and
grain and by colours beside each other, not by one colour. Nothing here looks at an image.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from wbc_common.seeds import numpy_generator
from wbc_simulations.phantom.settings import Domain, domain_names, load_domain

_BEYOND = 0.2  # how far past either domain a mixture may lie, as a share of their distance
_MARGIN = 0.1  # how far past the shipped domains' range a number may lie, as a share of its own size
_BINDING = 0.3  # deviation of the log gain of each dye in nucleus, cytoplasm and granules
_PARTS = ("stain", "smear", "optics", "camera", "framing", "cohort")


def blended_domain(number: int, *, seed: int, names: Sequence[str] = ()) -> Domain:
    """The blended domain of that number, the same for a seed; `names` are the shipped domains to mix (all if empty)."""
    generator = numpy_generator(seed, "blended domain", number)
    sources = [load_domain(name).model_dump() for name in names or domain_names()]
    parts = {part: _blended_part([source[part] for source in sources], generator) for part in _PARTS}
    parts["stain"] |= {f"{place}_binding": _binding(generator) for place in ("nucleus", "cytoplasm", "granule")}
    return Domain.model_validate(
        {"name": f"blend-{seed}-{number}", "description": "a blend of shipped domains", "source": "none", **parts}
    )


def _binding(generator: np.random.Generator) -> list[float]:
    gains = np.exp(_BINDING * np.clip(generator.normal(size=3), -2, 2))
    return [float(gain) for gain in gains]


def _blended_part(sources: list[dict[str, Any]], generator: np.random.Generator) -> dict[str, Any]:
    first: dict[str, Any] = sources[generator.integers(len(sources))]
    second: dict[str, Any] = sources[generator.integers(len(sources))]
    weight = generator.uniform(-_BEYOND, 1 + _BEYOND)
    if first.get("kind") != second.get("kind"):  # a field's width is in µm, a box's in cell diameters
        return first
    return {key: _blend(first[key], second[key], weight, [source[key] for source in sources]) for key in first}


def _blend(one: Any, other: Any, weight: float, shipped: list[Any]) -> Any:
    """Two values of one setting mixed number by number, kept near the range of the `shipped` ones."""
    if isinstance(one, dict):
        return {key: _blend(one[key], other[key], weight, [value[key] for value in shipped]) for key in one}
    if isinstance(one, tuple | list):
        pairs = zip(one, other, strict=True)
        return [_blend(a, b, weight, [value[place] for value in shipped]) for place, (a, b) in enumerate(pairs)]
    if not isinstance(one, float) or not isinstance(other, float):
        return one
    low, high = min(shipped), max(shipped)
    mixed = (1 - weight) * one + weight * other
    return float(np.clip(mixed, low - _MARGIN * abs(low), high + _MARGIN * abs(high)))
