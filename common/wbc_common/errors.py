"""The error tree: every failure a user can meet has a kind, an exit code and a next step.

`kind` is what may cross a clinic's border (see `wbc_client.boundary`): it names the sort of failure and nothing of the
clinic's files or patients. The text of an error stays where it arose. Exit codes are API: numbered, never reused.
"""

from typing import ClassVar


class WbcError(Exception):
    """A failure with a remedy.

    Args:
        problem: what happened, what was got and what was expected.
        remedy: the next step for the person who reads it.
    """

    exit_code: ClassVar[int] = 1
    kind: ClassVar[str] = "failed"

    def __init__(self, problem: str, *, remedy: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy

    def __reduce__(self) -> tuple[object, ...]:
        """Rebuild across process borders (Ray), where keyword-only arguments would be lost."""
        return (_rebuild, (type(self), self.problem, self.remedy))

    def __str__(self) -> str:
        return f"{self.problem}\n  next step: {self.remedy}"


def _rebuild(error_type: type[WbcError], problem: str, remedy: str) -> WbcError:
    return error_type(problem, remedy=remedy)


class SettingError(WbcError):
    """A command line, study or clinic file says something that cannot be done."""

    exit_code = 2
    kind = "setting"


class DataError(WbcError):
    """Images, labels or manifests that cannot be used."""

    exit_code = 3
    kind = "data"


class DeviceError(WbcError):
    """The device that a clinic computes on cannot do the work."""

    kind = "device"


class ConnectionFailure(WbcError):
    """The other side cannot be reached, or does not know us."""

    exit_code = 4
    kind = "connection"


class PolicyError(WbcError):
    """A request that this clinic's approved plan or policy does not allow."""

    exit_code = 5
    kind = "policy"


class BudgetSpent(PolicyError):
    """A training round that this clinic's privacy budget does not allow."""

    kind = "budget"


class UpdateRefused(WbcError):
    """A clinic's reply that must not count; the round goes on without it."""

    kind = "refused"


class ClinicAbsent(UpdateRefused):
    """No reply of a clinic within the time of a round; the round goes on without it."""

    kind = "absent"


class MessageError(WbcError):
    """A message whose records are not what `wbc_common.wire` describes."""

    kind = "message"


def error_of_kind(kind: object, problem: object, remedy: object) -> WbcError:
    """An error that another process wrote down, as the type of its kind."""
    kinds = {error.kind: error for error in (SettingError, DataError, ConnectionFailure, PolicyError)}
    return kinds.get(str(kind), WbcError)(str(problem), remedy=str(remedy))


EXIT_INTERRUPTED = 130
