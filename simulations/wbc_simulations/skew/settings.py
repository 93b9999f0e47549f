"""`[data.skew]`: how the clinics of an experiment are made of its cells. Every default leaves the clinics as they are.

[data.skew]                    deal, clinics, pool, label_alpha, sizes, min_cells, long_tail, seed
[data.skew.at.CLINIC]          what holds at one clinic: missing, long_tail, keep, noise, noise_to, labels
"""

from collections.abc import Collection, Iterator
from typing import Literal, Self

from pydantic import Field, model_validator

from wbc_common.cells import Registry, registry
from wbc_common.errors import SettingError
from wbc_common.study import ClinicId, Settings
from wbc_simulations.skew.faults import maturation_neighbours

Deal = Literal["source", "patient", "cell"]


class LongTail(Settings):
    """An exponentially falling number of cells per class (Cui et al. 2019; Cao et al. 2019).

    Attributes:
        imbalance: cells of the first class over cells of the last.
        order: classes from the most to the fewest cells; empty takes the order that the cells have.
    """

    imbalance: float = Field(ge=1, le=1e6)
    order: tuple[str, ...] = ()


class Sizes(Settings):
    """Quantity skew: the share of the pool that each virtual clinic gets.

    Attributes:
        kind: `equal`; `dirichlet`, shares drawn from Dir(alpha); `power-law`, clinic k gets a share ∝ k^(−exponent).
        alpha: of `dirichlet`; small is uneven.
        exponent: of `power-law`; 0 is even.
    """

    kind: Literal["equal", "dirichlet", "power-law"] = "equal"
    alpha: float | None = Field(None, gt=0, le=1e6)
    exponent: float | None = Field(None, ge=0, le=10)

    @model_validator(mode="after")
    def _kind_has_its_number(self) -> Self:
        for name, kind in (("alpha", "dirichlet"), ("exponent", "power-law")):
            given = getattr(self, name) is not None
            if given != (self.kind == kind):
                raise ValueError(f"'{name}' is {'for' if given else 'needed by'} sizes of kind {kind}")
        return self


class ClinicSkew(Settings):
    """What holds at one clinic.

    Attributes:
        missing: classes it never has; a coarse label that may mean one of them goes too.
        long_tail: its own imbalance.
        keep: the share of its cells that stays, drawn at random.
        noise: the rate of wrong labels among its training cells; cells with a coarse label are left alone.
        noise_to: `any-class`, each other class alike (symmetric noise); or `neighbours` on the maturation axis, where
            classes off the axis keep their labels.
        labels: the coarser registry in whose words it labels its training cells; those without a word are left out.
    """

    missing: tuple[str, ...] = ()
    long_tail: LongTail | None = None
    keep: float = Field(1.0, gt=0, le=1)
    noise: float = Field(0.0, ge=0, lt=1)
    noise_to: Literal["any-class", "neighbours"] = "any-class"
    labels: Literal["wbc5", "wbc11", "wbc13"] | None = None


class Skew(Settings):
    """How clinics are made.

    Attributes:
        seed: draws everything here; it does not change with the study's seed.
        deal: `source` leaves the clinics as they are; `patient` deals whole patients (slides, near-duplicates) of the
            pool among virtual clinics; `cell` deals single cells, so that a patient may lie in several clinics (but in
            one split: a patient who trains at one clinic is never tested at another).
        clinics: number of virtual clinics.
        name: their name, to which a number is added.
        pool: sources that are pooled; by default those that train. The others stay clinics of their own.
        label_alpha: Dirichlet label skew (Hsu et al. 2019; Li et al. 2021); small is uneven, absent is none.
        sizes: quantity skew.
        min_cells: no virtual clinic has fewer; shares are drawn again until that holds.
        long_tail: of the pool as a whole, before it is dealt.
        at: what holds at one clinic.
    """

    seed: int = Field(0, ge=0, lt=2**31)
    deal: Deal = "source"
    clinics: int | None = Field(None, ge=1, le=10_000)
    name: str = Field("virtual", pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,40}$")
    pool: tuple[ClinicId, ...] = ()
    label_alpha: float | None = Field(None, gt=0, le=1e6)
    sizes: Sizes = Sizes()
    min_cells: int = Field(10, ge=1)
    long_tail: LongTail | None = None
    at: dict[ClinicId, ClinicSkew] = Field(default={})

    @model_validator(mode="after")
    def _settings_fit_the_deal(self) -> Self:
        if self.deal != "source":
            if self.clinics is None:
                raise ValueError(f"deal = '{self.deal}' needs 'clinics', the number of virtual clinics")
            return self
        for name in ("clinics", "name", "label_alpha", "sizes", "min_cells"):
            # Against the default, not whether it was given: an experiment is written with its defaults and read again.
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"'{name}' is for clinics that are dealt: set deal to 'patient' or 'cell'")
        return self

    @property
    def is_plain(self) -> bool:
        """Whether the sources are the clinics and their cells as they are."""
        return self.deal == "source" and self.long_tail is None and all(at == ClinicSkew() for at in self.at.values())

    @property
    def virtual_clinics(self) -> tuple[str, ...]:
        """Names of the virtual clinics, in name order; none where the sources stay clinics."""
        if self.clinics is None:
            return ()
        width = len(str(self.clinics))
        return tuple(f"{self.name}-{number:0{width}d}" for number in range(1, self.clinics + 1))


def check_skew(skew: Skew, classes: Registry, present: Collection[str]) -> None:
    """Check what a skew says against the study's classes and clinics.

    Raises:
        SettingError: it names a clinic, class or registry that does not fit, or leaves no class.
    """
    strangers = sorted(set(skew.at) - set(present))
    if strangers:
        raise SettingError(
            f"data.skew.at names clinics that do not exist: {', '.join(strangers)}",
            remedy=f"choose among {', '.join(sorted(present))}",
        )
    for place, names in _named_classes(skew):
        unknown = sorted(set(names) - set(classes.classes))
        if unknown:
            raise SettingError(
                f"{place} names unknown classes {', '.join(unknown)}",
                remedy=f"choose among {', '.join(classes.classes)}",
            )
    for clinic, at in skew.at.items():
        _check_clinic(clinic, at, classes)


def _named_classes(skew: Skew) -> Iterator[tuple[str, tuple[str, ...]]]:
    if skew.long_tail is not None:
        yield "data.skew.long_tail.order", skew.long_tail.order
    for clinic, at in skew.at.items():
        yield f"data.skew.at.{clinic}.missing", at.missing
        if at.long_tail is not None:
            yield f"data.skew.at.{clinic}.long_tail.order", at.long_tail.order


def _check_clinic(clinic: str, at: ClinicSkew, classes: Registry) -> None:
    place = f"data.skew.at.{clinic}"
    if set(at.missing) == set(classes.classes):
        raise SettingError(f"{place}.missing names every class of {classes.name}", remedy="leave it some classes")
    if at.noise > 0 and at.noise_to == "neighbours" and not any(maturation_neighbours(classes)):
        raise SettingError(
            f"{place}.noise_to = 'neighbours': {classes.name} has no neighbouring classes on the maturation axis",
            remedy="use noise_to = 'any-class', or a finer registry",
        )
    if at.labels is not None:
        coarser = registry(at.labels)
        if len(coarser) >= len(classes):
            raise SettingError(
                f"{place}.labels = '{at.labels}' is not coarser than the study's {classes.name}",
                remedy="name a registry with fewer classes than the study's",
            )
