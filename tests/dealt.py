"""Cells to deal to clinics, and clinics dealt from them."""

from typing import Any

import numpy as np

from wbc_common.cells import registry
from wbc_common.study import validated
from wbc_simulations.skew.deriving import derive_clinics
from wbc_simulations.skew.settings import Skew
from wbc_simulations.skew.table import CellTable

WBC5 = registry("wbc5")
WBC11 = registry("wbc11")
WBC13 = registry("wbc13")


def a_table(labels: Any, groups: Any = None, *, num_classes: int = 5, source: int = 0, split: Any = None) -> CellTable:
    labels = np.asarray(labels, dtype=np.int64)
    groups = np.arange(len(labels)) if groups is None else np.asarray(groups)
    split = groups % 3 if split is None else np.asarray(split)
    allowed = np.eye(num_classes, dtype=np.bool_)[labels]
    return CellTable(
        allowed, groups.astype(np.int64), split.astype(np.int64), np.full(len(labels), source), np.arange(len(labels))
    )


def a_skew(**values: Any) -> Skew:
    return validated(Skew, values, "skew")


def drawn(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def derived(table: CellTable, skew: Skew, **options: Any) -> dict[str, CellTable]:
    names = skew.virtual_clinics or ("east",)
    return derive_clinics({"east": table}, ("east",), skew, WBC5, **{"trains": names, **options})
