"""The textbook: size, nucleus, chromatin, cytoplasm and granules of each of the 13 classes, as distributions.

The numbers are data (`morphology.toml`), each class with its source. Neighbours on the maturation axis myeloblast →
promyelocyte → myelocyte → metamyelocyte → band → segmented overlap on purpose: they are confusable in reality, to
experts too.
"""

import functools
import tomllib
from importlib import resources
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field

from wbc_common.cells import CLASSES_13

MeanSd = tuple[float, float]
Dyes = tuple[float, float, float]  # amounts of azure, eosin, haemoglobin
Share = Annotated[float, Field(ge=0.0, le=1.0)]
MAX_LOBES = 5


class Granules(BaseModel):
    """One population of granules: share of the plane covered, size, dyes bound, share lying over the nucleus."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    coverage: MeanSd = (0.0, 0.0)
    diameter_um: MeanSd = (0.3, 0.05)
    dyes: Dyes = (0.0, 0.0, 0.0)
    over_nucleus: Share = 0.0


class Morphology(BaseModel):
    """One class; pairs are (mean, standard deviation) between cells.

    Attributes:
        cell_wobble: standard deviation of the border / radius; `fringe_um`: the same of its fine villi, in µm.
        nucleus_ratio: equivalent nuclear diameter / cell diameter (its square is the N:C area ratio).
        lobes: probabilities of 1 to 5 lobes.
        slenderness: half-width of an unsegmented nucleus / its equivalent radius: 1 round, 0.8 kidney, 0.5 band.
        bend_degrees: turn of the nuclear spine from end to end (per joint where segmented).
        bridge: half-width of the strand between lobes / lobe radius.
        eccentricity: 0 central, 1 touching the membrane.
        hof: lightening of the cytoplasm beside the nucleus (Golgi zone), 0 to 1.
        rim: added cytoplasmic dye at the membrane, ratio (the basophilic skirt of reactive lymphocytes).
        soluble: 1 where the granules dissolve in stains that wash them out (`Stain.dissolved`), 0 where they stay.
        nucleus_edge_um: width over which the nucleus fades out; large in smudge cells.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    source: str
    cell_diameter_um: MeanSd
    cell_wobble: MeanSd = (0.03, 0.01)
    fringe_um: MeanSd = (0.04, 0.03)
    cell_elongation: MeanSd = (0.04, 0.03)
    red_cell_indent: MeanSd = (0.2, 0.1)
    nucleus_ratio: MeanSd
    lobes: tuple[float, float, float, float, float] = (1.0, 0.0, 0.0, 0.0, 0.0)
    slenderness: MeanSd = (0.95, 0.04)
    bend_degrees: MeanSd = (0.0, 20.0)
    bridge: MeanSd = (0.3, 0.1)
    nucleus_wobble: MeanSd = (0.04, 0.02)
    eccentricity: MeanSd = (0.4, 0.25)
    nucleus_dyes: Dyes
    nucleus_edge_um: MeanSd = (0.16, 0.03)
    chromatin_contrast: MeanSd = (0.2, 0.06)
    chromatin_scale_um: MeanSd = (0.9, 0.15)
    nucleoli_share: Share = 0.0
    cytoplasm_dyes: Dyes
    cytoplasm_texture: MeanSd = (0.1, 0.04)
    rim: MeanSd = (0.1, 0.1)
    hof: MeanSd = (0.1, 0.1)
    fine: Granules = Granules()
    coarse: Granules = Granules()
    vacuole_coverage: MeanSd = (0.0, 0.0)
    auer_share: Share = 0.0
    soluble: Share = 0.0


@functools.cache
def textbook() -> dict[str, Morphology]:
    """The shipped morphology of every class, in the order of CLASSES_13."""
    file = resources.files("wbc_simulations.phantom") / "morphology.toml"
    tables = tomllib.loads(file.read_text(encoding="utf-8"))
    return {cell_class: Morphology.model_validate(tables[cell_class]) for cell_class in CLASSES_13}


@functools.cache
def trait_table(device: str = "cpu") -> dict[str, torch.Tensor]:
    """Every numeric trait as float32 [13, n]; the granules' as "fine.coverage" and so on."""
    rows = [_flat(morphology) for morphology in textbook().values()]
    return {name: torch.tensor([row[name] for row in rows], device=device) for name in rows[0]}


def _flat(morphology: Morphology) -> dict[str, tuple[float, ...]]:
    flat: dict[str, tuple[float, ...]] = {}
    for name in Morphology.model_fields:
        value = getattr(morphology, name)
        if isinstance(value, Granules):
            flat |= {f"{name}.{part}": _as_tuple(getattr(value, part)) for part in Granules.model_fields}
        elif not isinstance(value, str):
            flat[name] = _as_tuple(value)
    return flat


def _as_tuple(value: float | tuple[float, ...]) -> tuple[float, ...]:
    return tuple(value) if isinstance(value, tuple) else (float(value),)
