"""The error tree: codes and kinds are API, and an error survives the way to another process."""

import pickle

import pytest

from wbc_common import errors
from wbc_common.errors import WbcError

CODES = {
    "WbcError": 1,
    "SettingError": 2,
    "DataError": 3,
    "DeviceError": 1,
    "ConnectionFailure": 4,
    "PolicyError": 5,
    "UpdateRefused": 1,
    "MessageError": 1,
}
TREE = [WbcError, *WbcError.__subclasses__()]


def test_exit_codes_are_what_they_were() -> None:
    assert {error.__name__: error.exit_code for error in TREE if error.__module__ == errors.__name__} == CODES
    assert errors.EXIT_INTERRUPTED == 130


def test_each_kind_is_one_word_of_its_own() -> None:
    kinds = [error.kind for error in TREE]
    assert len(set(kinds)) == len(kinds)
    assert all(kind.isalpha() for kind in kinds)


@pytest.mark.parametrize("error_type", TREE)
def test_an_error_says_problem_and_next_step_also_after_a_process_border(error_type: type[WbcError]) -> None:
    error = error_type("a went wrong", remedy="do b")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 (our own bytes: Ray carries errors so)
    for one in (error, again):
        assert type(one) is error_type
        assert str(one) == "a went wrong\n  next step: do b"
        assert (one.problem, one.remedy) == ("a went wrong", "do b")
