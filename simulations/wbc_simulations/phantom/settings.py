"""What a domain is: the distributions of stain, smear, optics, camera and framing that a clinic's images share.

Domains are data (one TOML each in `domains/`), so that a study names them and a new clinic needs no code. Every
quantity carries its unit in its name: µm (um), optical density (od, natural logarithm, per METHOD.md §3), or a
plain ratio. The shipped domains imitate how *published descriptions* of data sets read; their numbers are chosen by
eye and by hand, none is fitted to images.
"""

import functools
import tomllib
from importlib import resources
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wbc_common.errors import SettingError

Rgb = tuple[float, float, float]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Sd = Annotated[float, Field(ge=0.0)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Spread(_Frozen):
    """A normal quantity with a level for patients: mean + patient · N(0,1) + cell · N(0,1)."""

    mean: float
    patient: Sd = 0.0
    cell: Sd = 0.0


class Cohort(_Frozen):
    """How this clinic's patients differ from the textbook cell (ratios, 1 = textbook)."""

    cell_size: Spread = Spread(mean=1.0, patient=0.03)
    nucleus_size: Spread = Spread(mean=1.0, patient=0.015, cell=0.01)
    granules: Spread = Spread(mean=1.0, patient=0.12, cell=0.08)
    chromatin: Spread = Spread(mean=1.0, patient=0.1, cell=0.1)


class Stain(_Frozen):
    """A Romanowsky stain: absorption of its dyes at unit amount (OD in R, G, B) and how much is bound.

    The purple of nuclei is azure B and eosin Y together (the Romanowsky effect, Horobin & Walter, Histochemistry 1987),
    so two dyes suffice; a low pH reddens (more eosin, less azure), a high pH turns blue (ICSH reference method for
    staining with azure B and eosin Y, Br. J. Haematol. 1984).

    `dissolved` is how much of the basophil's water-soluble granules the stain washes out, 0 none to 1 all (Bain).

    `*_binding` are gains on what each part of the cell binds of azure, eosin and haemoglobin's colour: stains differ in
    it (rapid stains tint a neutrophil's cytoplasm and granules towards an eosinophil's).
    """

    azure_rgb_od: Rgb
    eosin_rgb_od: Rgb
    haemoglobin_rgb_od: Rgb
    intensity: Spread
    ph_shift: Spread
    granule_gain: Spread
    cytoplasm_gain: Spread = Spread(mean=1.0, patient=0.08, cell=0.05)
    chromatin_contrast: Spread = Spread(mean=1.0, patient=0.1, cell=0.1)
    precipitate: Spread = Spread(mean=-0.03, patient=0.012, cell=0.008)
    dissolved: Spread = Spread(mean=0.0)
    nucleus_binding: Rgb = (1.0, 1.0, 1.0)
    cytoplasm_binding: Rgb = (1.0, 1.0, 1.0)
    granule_binding: Rgb = (1.0, 1.0, 1.0)


class Smear(_Frozen):
    """What surrounds the cell. `red_cell_coverage` is the share of the field under red cells."""

    red_cell_coverage: Spread
    red_cell_od: Spread
    pallor: Spread
    thickness: Spread = Spread(mean=1.0, patient=0.05, cell=0.03)
    plasma_od: Spread = Spread(mean=0.0, patient=0.0, cell=0.01)
    platelets_per_field: Annotated[float, Field(ge=0.0, le=3.0)] = 0.6
    neighbour_cell_share: Share = 0.06


class Optics(_Frozen):
    """Objective and condenser: widths are standard deviations of a Gaussian point spread, in µm in the specimen."""

    um_per_px: Annotated[float, Field(gt=0.0, le=1.0)]
    psf_um: Spread
    defocus_um: Spread
    lateral_colour_um: Spread = Spread(mean=0.0, cell=0.02)
    axial_colour_um: Spread = Spread(mean=0.0, cell=0.03)
    edge_ring_od: Spread = Spread(mean=0.03, patient=0.01, cell=0.03)
    vignette: Spread = Spread(mean=0.02, cell=0.02)
    gradient: Spread = Spread(mean=0.0, cell=0.03)


class Camera(_Frozen):
    """From light to stored pixels. `light_rgb` is an empty field's colour; `gamma` is relative to sRGB's."""

    light_rgb: Rgb
    exposure: Spread
    white_balance: Spread
    colour_matrix: tuple[Rgb, Rgb, Rgb]
    gamma: Spread
    flare: Spread
    noise: Spread
    jpeg_quality: Annotated[int, Field(ge=20, le=100)] | None = None


class Framing(_Frozen):
    """Which window is cut out. "field": a window of `width` µm; "box": `width` times the cell's diameter."""

    kind: Literal["field", "box"]
    width: Spread
    offset_um: Spread


class Domain(_Frozen):
    """One clinic's way of making images; see the attributes' own types."""

    name: str
    description: str
    source: str
    stain: Stain
    smear: Smear
    optics: Optics
    camera: Camera
    framing: Framing
    cohort: Cohort = Cohort()


@functools.cache
def domain_names() -> tuple[str, ...]:
    """The shipped domains, sorted."""
    folder = resources.files("wbc_simulations.phantom") / "domains"
    return tuple(sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")))


@functools.cache
def load_domain(name: str) -> Domain:
    """The shipped domain of that name.

    Raises:
        SettingError: there is none, or its file says something unknown.
    """
    if name not in domain_names():
        raise SettingError(
            f"phantom domain '{name}' does not exist", remedy=f"choose one of {', '.join(domain_names())}"
        )
    file = resources.files("wbc_simulations.phantom") / "domains" / f"{name}.toml"
    return parse_domain(file.read_text(encoding="utf-8"), where=f"{name}.toml")


def parse_domain(text: str, *, where: str) -> Domain:
    """A domain from TOML text.

    Raises:
        SettingError: not TOML, or an unknown, missing or impossible setting.
    """
    try:
        return Domain.model_validate(tomllib.loads(text))
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise SettingError(
            f"phantom domain file {where} cannot be used: {error}",
            remedy="correct the named setting; the shipped domains/*.toml show every one",
        ) from error
