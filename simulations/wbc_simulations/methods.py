"""`[compare]` and `[sweep]` of an experiment: which methods are run, with which seeds, over which grid of settings.

A grid is no axis of its own: each method is repeated at each point of it, under a name that says the point. So folders,
tables and paired differences treat "full, loss.tau=0.5" as any other method; its baseline is at the same point.
"""

from collections.abc import Sequence
from itertools import product
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from wbc_common.study import Settings

MethodKind = Literal["federated", "local-only", "centralised", "centralised-boda", "in-domain-oracle"]


class Method(Settings):
    """One method to compare.

    Attributes:
        name: how it is called in tables and folders.
        baseline: the method that its paired differences are taken to; by default the first of the comparison.
        kind: other than `federated` makes it a bound (`wbc_simulations.bounds`).
        settings: settings that replace the study's, table by table.
        changes: settings by dotted key, also of the data, e.g. "data.skew.label_alpha"; they go before `settings`.
    """

    name: str = Field(min_length=1, max_length=200)
    baseline: str | None = None
    kind: MethodKind = "federated"
    settings: dict[str, dict[str, Any]] = Field(default={})
    changes: dict[str, Any] = Field(default={})


class Comparison(Settings):
    """What `compare` runs.

    Attributes:
        hold_out: `each` clinic in turn, one a run; the clinics whose role is held out, all in one run (`stated`); or
            each in turn without each other one (`nested`), see `wbc_simulations.sweep.folds`.
    """

    hold_out: Literal["each", "stated", "nested"] = "each"
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    methods: tuple[Method, ...] = ()

    @model_validator(mode="after")
    def _baselines_exist(self) -> Self:
        names = [method.name for method in self.methods]
        if len(set(names)) < len(names):
            raise ValueError(f"methods need different names, got {', '.join(names)}")
        strangers = [method.baseline for method in self.methods if method.baseline not in (None, *names)]
        if strangers:
            raise ValueError(f"no method is called {', '.join(map(str, strangers))}")
        return self

    def baseline_of(self, name: str) -> str:
        """The method that a method is compared with."""
        method = next(method for method in self.methods if method.name == name)
        return method.baseline or self.methods[0].name

    def with_baselines(self, names: Sequence[str]) -> list[str]:
        """Those of the names that are methods, and what they are compared with, and that in turn; each once."""
        known = {method.name for method in self.methods}
        found: list[str] = []
        for name in names:
            while name in known and name not in found:
                found.append(name)
                name = self.baseline_of(name)
        return found


class Sweep(Settings):
    """What a sweep varies beside fold, method and seed.

    Attributes:
        grid: settings by dotted key → the values to try; several keys are tried in all combinations.
    """

    grid: dict[str, tuple[bool | int | float | str, ...]] = Field(default={})


def on_grid(comparison: Comparison, sweep: Sweep) -> Comparison:
    """The comparison with each method at each point of the grid; unchanged without a grid.

    An experiment that names no method has one, called "study": its own settings.
    """
    methods = comparison.methods or (Method(name="study"),)
    if not sweep.grid:
        return comparison.model_copy(update={"methods": methods})
    points = [dict(zip(sweep.grid, values, strict=True)) for values in product(*sweep.grid.values())]
    at_points = [_at(method, point, methods[0].name) for point in points for method in methods]
    return comparison.model_copy(update={"methods": tuple(at_points)})


def _at(method: Method, point: dict[str, Any], first: str) -> Method:
    def named(name: str) -> str:
        return ", ".join([name, *(f"{key}={value}" for key, value in point.items())])

    changes = {**method.changes, **point}
    update = {"name": named(method.name), "baseline": named(method.baseline or first), "changes": changes}
    return method.model_copy(update=update)
