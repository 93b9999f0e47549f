"""Selection: the best validation round, and never a look at a held-out clinic."""

import math
from typing import Any

import pytest

from wbc_common.study import EvaluationSettings
from wbc_server.record.round_digest import digest_of
from wbc_server.selection import first_averaged_round, mean_macro_f1, name_export, select_scored

PERFECT = [[2, 0], [0, 2]]  # macro-F1 1
ALL_FIRST = [[2, 0], [2, 0]]  # F1 4/6 and 0: macro-F1 1/3
SWAPPED = [[0, 2], [2, 0]]  # macro-F1 0
EMPTY = [[0, 0], [0, 0]]  # not defined
BEST = EvaluationSettings(selection="best-validation")


def record(number: int, held_out: Any = PERFECT, **validation: list[list[int]]) -> dict[str, Any]:
    kept = {"plan": "", "checkpoint": {"file": "", "sha256": ""}, "seconds": 0.0, "refused": []}
    return {"round": number, "validation": validation, "held_out": {"west": held_out}, **kept}


def chosen(records: list[dict[str, Any]], settings: EvaluationSettings) -> int:
    """The round to export, by what is kept of the journal's records."""
    digests = [digest_of(record) for record in records]
    return select_scored([(digest.round_number, digest.validation_macro_f1) for digest in digests], settings)


def test_the_round_with_the_best_validation_is_chosen() -> None:
    records = [record(1, east=ALL_FIRST), record(2, east=PERFECT), record(3, east=SWAPPED)]
    assert chosen(records, BEST) == 2


def test_clinics_weigh_the_same_whatever_their_cells() -> None:
    many = [[2000, 0], [2000, 0]]
    assert mean_macro_f1({"east": many, "north": PERFECT}) == pytest.approx((1 / 3 + 1) / 2)


def test_a_tie_goes_to_the_later_round() -> None:
    records = [record(1, east=PERFECT), record(2, east=PERFECT), record(3, east=ALL_FIRST)]
    assert chosen(records, BEST) == 2


@pytest.mark.parametrize("held_out", [PERFECT, SWAPPED, EMPTY, "never parsed", None, [[-9, float("nan")]]])
def test_held_out_clinics_have_no_say_whatever_they_report(held_out: Any) -> None:
    records = [record(1, held_out=held_out, east=ALL_FIRST), record(2, held_out=SWAPPED, east=PERFECT)]
    assert chosen(records, BEST) == 2
    assert chosen(list(reversed(records)), BEST) == 2


def test_a_clinic_without_validation_cells_leaves_the_mean_to_the_others() -> None:
    assert mean_macro_f1({"east": EMPTY, "north": ALL_FIRST}) == pytest.approx(1 / 3)


def test_a_round_whose_validation_is_not_defined_is_never_the_best() -> None:
    assert chosen([record(1, east=SWAPPED), record(2, east=EMPTY), record(3)], BEST) == 1


def test_without_any_validation_the_last_round_is_taken() -> None:
    assert math.isnan(mean_macro_f1({}))
    assert math.isnan(mean_macro_f1({"east": EMPTY}))
    assert chosen([record(1, east=EMPTY), record(2)], BEST) == 2


def test_selection_last_takes_the_last_round_over_a_better_one() -> None:
    records = [record(1, east=PERFECT), record(2, east=SWAPPED)]
    assert chosen(records, EvaluationSettings(selection="last")) == 2


@pytest.mark.parametrize(
    ("selected", "selection", "words"),
    [
        (8, "average", "mean of the models of rounds 6 to 8"),
        (12, "average", "mean of the models of rounds 9 to 12"),
        (3, "average", "model of round 3"),  # a third of three is one
        (5, "best-validation", "model of round 5"),
    ],
)
def test_what_is_exported_is_said_in_words(selected: int, selection: str, words: str) -> None:
    assert name_export(selected, selection) == words


@pytest.mark.parametrize("rounds", range(1, 31))
def test_the_last_third_is_rounded_up(rounds: int) -> None:
    assert rounds - first_averaged_round(rounds) + 1 == -(-rounds // 3)
