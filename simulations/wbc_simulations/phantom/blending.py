"""Domains between the shipped ones: domain randomisation (Tobin et al., IROS 2017) without new numbers by hand.

A network trained on nine looks learns nine looks. A blended domain takes each part (stain, smear, optics, camera,
framing, cohort) from two shipped domains, mixed at a random point on, or a little beyond, the line between them, so
that the stain of some meets the camera of others. What has no in-between (kind of framing, JPEG or not) comes from the
first of the two. How much dye each part of the cell binds is drawn anew: a class is then known by its shape and
grain and by colours beside each other, not by one colour. Nothing here looks at an image.

A *wide* blend goes on from there: how strongly each thing shows (dyes, granules, chromatin, red cells, noise) is drawn
over a range beyond any shipped domain, and basophil granules may be washed out. Cells of wide blends are rehearsed by
clinics (`wbc_client.training.rehearsal`); a start was no better for them (docs/results.md).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from wbc_common.seeds import numpy_generator
from wbc_simulations.phantom.settings import Domain, Spread, domain_names, load_domain

_BEYOND = 0.2  # how far past either domain a mixture may lie, as a share of their distance
_MARGIN = 0.1  # how far past the shipped domains' range a number may lie, as a share of its own size
_BINDING = 0.3  # deviation of the log gain of each dye in nucleus, cytoplasm and granules
_BOUND = ("nucleus", "cytoplasm", "granule")
_WIDE_BINDING = 0.5
_WIDE = (  # part, quantity, deviation of the log factor on it, and the factor's bounds
    ("stain", "intensity", 0.3, (0.5, 1.7)),
    ("stain", "cytoplasm_gain", 0.35, (0.4, 2.0)),
    ("stain", "granule_gain", 0.4, (0.3, 1.6)),
    ("stain", "chromatin_contrast", 0.45, (0.4, 2.2)),
    ("smear", "red_cell_od", 0.3, (0.4, 1.8)),
    ("camera", "noise", 0.6, (0.5, 4.0)),
)
_DISSOLVED = Spread(mean=0.3, patient=0.3, cell=0.33)
_PARTS = ("stain", "smear", "optics", "camera", "framing", "cohort")


def blended_domain(number: int, *, seed: int, names: Sequence[str] = (), wide: bool = False) -> Domain:
    """The blended domain of that number, the same for a seed; `names` are the shipped domains to mix (all if empty)."""
    generator = numpy_generator(seed, "blended domain", number)
    sources = [load_domain(name).model_dump() for name in names or domain_names()]
    parts = {part: _blended_part([source[part] for source in sources], generator) for part in _PARTS}
    binding = _WIDE_BINDING if wide else _BINDING
    parts["stain"] |= {f"{place}_binding": _binding(generator, binding) for place in _BOUND}
    if wide:
        _widen(parts, generator)
    return Domain.model_validate(
        {"name": f"blend-{seed}-{number}", "description": "a blend of shipped domains", "source": "none", **parts}
    )


def _widen(parts: dict[str, dict[str, Any]], generator: np.random.Generator) -> None:
    """Scale what `_WIDE` names, in place, and let basophil granules dissolve."""
    for part, quantity, deviation, bounds in _WIDE:
        factor = float(np.clip(np.exp(deviation * generator.normal()), *bounds))
        parts[part][quantity] = {key: factor * value for key, value in parts[part][quantity].items()}
    parts["stain"]["dissolved"] = _DISSOLVED.model_dump()


def _binding(generator: np.random.Generator, deviation: float) -> list[float]:
    gains = np.exp(deviation * np.clip(generator.normal(size=3), -2, 2))
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
