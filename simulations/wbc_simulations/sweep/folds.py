"""The folds of a sweep: who is held out in a run, and who has no part in it.

each     one clinic held out, all others train
stated   the clinics that the file holds out, in one run
nested   one clinic held out, another one without any part, the rest trains: every such pair. What is chosen by the
         runs without a clinic has not seen it, and may be tried on it (nested cross-validation: Varma, Simon 2006)
"""

from collections.abc import Sequence
from dataclasses import dataclass

from wbc_common.errors import SettingError
from wbc_simulations.experiment import Experiment, all_clinics, stated_held_out

STATED_FOLD = "stated"
_LEAST_NESTED = 3


@dataclass(frozen=True)
class Fold:
    """One fold.

    Attributes:
        held_out: the clinic that is held out, or STATED_FOLD where the file says which are.
        without: the clinic that has no part in the run; empty for none.
    """

    held_out: str
    without: str = ""

    def __str__(self) -> str:
        return f"{self.held_out}-without-{self.without}" if self.without else self.held_out

    @property
    def clinics_held_out(self) -> tuple[str, ...]:
        """Whom to hold out; nobody where that is left to the file."""
        return () if self.held_out == STATED_FOLD else (self.held_out,)


def folds_of(experiment: Experiment, wanted: Sequence[str]) -> tuple[Fold, ...]:
    """The folds of an experiment, in name order.

    Args:
        experiment: the file, with the command's changes to its data.
        wanted: only those that hold out one of these clinics; empty takes all.

    Raises:
        SettingError: a fold leaves a stated clinic to train whose look no network is meant to have seen, or too few
            clinics are there to leave two of them out.
    """
    if experiment.compare.hold_out == "stated":
        _refuse_single(experiment, wanted)
        return tuple(Fold(name) for name in wanted or (STATED_FOLD,))
    everyone = all_clinics(experiment)
    held_out = tuple(wanted) or everyone
    if experiment.compare.hold_out == "each":
        return tuple(Fold(name) for name in held_out)
    if len(everyone) < _LEAST_NESTED:
        raise SettingError(
            f"compare.hold_out = 'nested' leaves two clinics out of each training, and there are {len(everyone)}",
            remedy=f"give it {_LEAST_NESTED} clinics or more, or leave hold_out out, which holds out each in turn",
        )
    return tuple(Fold(name, without) for without in everyone for name in held_out if name != without)


def _refuse_single(experiment: Experiment, wanted: Sequence[str]) -> None:
    asked = [fold for fold in wanted if fold != STATED_FOLD]
    stated = stated_held_out(experiment) if asked else ()
    for fold in asked:
        others = [name for name in stated if name != fold]
        if others:
            raise SettingError(
                f"--fold {fold}: this study holds out {', '.join(stated)} together; here {', '.join(others)} would "
                "train",
                remedy="leave --fold out (the table has a row for each held-out clinic), or let a copy of the study "
                'file say hold_out = "each" under [compare]',
            )
