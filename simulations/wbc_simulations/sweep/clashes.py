"""What a command may not change in a sweep: what the folders and tables say of its runs by their names.

A row called "full, loss.tau=0.5" is that run. `--set loss.tau=1` would run another one under its name, so it is
refused; it changes what no method and no grid speaks of. So it is with the seed and with who is held out.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from wbc_common.errors import SettingError
from wbc_simulations.methods import Method
from wbc_simulations.sweep.folds import STATED_FOLD, Fold

_HELD_OUT = "clinics.held_out"
_RULED = {
    "seed": "the runs of a sweep have its seeds: choose with --seed, or change [compare] seeds in the study file",
    _HELD_OUT: "each run of a sweep holds out its fold: choose with --fold, or change the study file",
}


def refuse_clashes(changes: Mapping[str, Any], methods: Sequence[Method], folds: Sequence[Fold]) -> None:
    """Check that a command changes nothing that the name of a run says.

    Args:
        changes: settings by dotted key, as `--set` gives them.
        methods: those that are run, at each point of the grid.
        folds: those that are run.

    Raises:
        SettingError: naming the setting, and the run that has another value.
    """
    for key, value in changes.items():
        for ruled, remedy in _RULED.items():
            if _meet(key, ruled) and not (ruled == _HELD_OUT and Fold(STATED_FOLD) in folds):
                raise SettingError(f"--set {key} would give the runs of a sweep another {ruled}", remedy=remedy)
        for method in methods:
            _refuse_clash(key, value, method)


def _refuse_clash(key: str, value: Any, method: Method) -> None:
    for said, own in _flat({**method.settings, **method.changes}).items():
        if _meet(key, said) and not (key == said and value == own):
            raise SettingError(
                f"--set {key}={value} would change the runs called '{method.name}', which have {said} = {own}",
                remedy="leave it out, or change [compare] or [sweep.grid] in the study file, where it makes another "
                "name; --method chooses among methods and points of the grid",
            )


def _meet(one: str, other: str) -> bool:
    """Whether two dotted keys are the same setting, or one is a table that holds the other."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """{"loss": {"tau": 0.5}} → {"loss.tau": 0.5}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{before}{key}.") if isinstance(value, Mapping) else {f"{before}{key}": value}
    return flat
