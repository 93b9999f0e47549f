"""Case mixes: what share of a clinic's leukocytes each class has, from the healthy count to leukaemias.

A clinic's cohort decides its class imbalance; these are the mixes that `skew` and the experiments combine with a
domain.
"""

import functools
import tomllib
from importlib import resources
from types import MappingProxyType

from wbc_common.cells import CLASSES_13
from wbc_common.errors import SettingError


@functools.cache
def _case_mixes() -> MappingProxyType[str, dict[str, float]]:
    file = resources.files("wbc_simulations.phantom") / "case_mixes.toml"
    tables = tomllib.loads(file.read_text(encoding="utf-8"))
    return MappingProxyType({name: _complete(table["percent"]) for name, table in tables.items()})


def _complete(percent: dict[str, float]) -> dict[str, float]:
    """Percentages of the classes named → fractions of all 13, summing to 1."""
    total = sum(percent.values())
    return {cell_class: percent.get(cell_class, 0.0) / total for cell_class in CLASSES_13}


def case_mix_names() -> tuple[str, ...]:
    """The shipped case mixes."""
    return tuple(_case_mixes())


def case_mix(name: str) -> dict[str, float]:
    """Fractions of the 13 classes; they sum to 1.

    Raises:
        SettingError: there is no such mix.
    """
    if name not in _case_mixes():
        raise SettingError(f"case mix '{name}' does not exist", remedy=f"choose one of {', '.join(case_mix_names())}")
    return dict(_case_mixes()[name])
