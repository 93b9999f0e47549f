"""The register of a study, `clinics.json`: which key belongs to which clinic, since when, and whether it still counts.

It is the one source of who may connect. The gateway reads it with every change, so that a revoked key is refused with
the next request; the running coordinator tells Flower. Entries are never deleted: a revoked one stays as evidence.
"""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wbc_common.errors import DataError, SettingError
from wbc_common.files import write_atomically
from wbc_common.keys import fingerprint, public_pem, read_public_key
from wbc_common.study import ClinicId, Role, Settings, StudyConfig, validated


class Enrolment(Settings):
    """One key of one clinic. Times are ISO 8601, UTC; `node_id` is Flower's number for it once it is told."""

    clinic: ClinicId
    role: Role
    key: str
    fingerprint: str
    enrolled: str
    revoked: str | None = None
    node_id: int | None = None

    @property
    def is_active(self) -> bool:
        """Whether this key counts."""
        return self.revoked is None

    @property
    def pem(self) -> bytes:
        """The key as Flower sends it."""
        return public_pem(read_public_key(self.key))


class Register(Settings):
    """All enrolments, oldest first."""

    enrolments: tuple[Enrolment, ...] = ()

    def active(self) -> dict[str, Enrolment]:
        """Clinic → the enrolment that counts."""
        return {entry.clinic: entry for entry in self.enrolments if entry.is_active}

    def enrol(self, study: StudyConfig, clinic: str, key: str, role: str | None, *, replace: bool) -> "Register":
        """With a clinic's key; an earlier key of the clinic is revoked where `replace` is set.

        Raises:
            SettingError: the plan does not name the clinic in that role, or the key or clinic is enrolled already.
        """
        planned = study.role(clinic)
        if role not in (None, planned):
            raise SettingError(
                f"clinic '{clinic}' is enrolled as {role}, the plan has it as {planned}",
                remedy="change the plan or the role; every clinic approves a changed plan again",
            )
        line = " ".join(key.split())
        mark = fingerprint(read_public_key(line))
        if any(entry.fingerprint == mark for entry in self.enrolments):
            raise SettingError(
                f"key {mark} is or was enrolled already", remedy="have the clinic make a new key: wbc-client init"
            )
        if clinic in self.active() and not replace:
            raise SettingError(
                f"clinic '{clinic}' is enrolled with key {self.active()[clinic].fingerprint}",
                remedy="add --replace to put the new key in its place",
            )
        entry = Enrolment(clinic=clinic, role=planned, key=line, fingerprint=mark, enrolled=_now())
        return Register(enrolments=(*self._revoked(clinic), entry))

    def revoke(self, clinic: str) -> "Register":
        """Without a clinic's key.

        Raises:
            SettingError: the clinic has none.
        """
        if clinic not in self.active():
            raise SettingError(
                f"clinic '{clinic}' has no key that counts", remedy="see who has: wbc-server list FOLDER"
            )
        return Register(enrolments=self._revoked(clinic))

    def with_node(self, mark: str, node_id: int) -> "Register":
        """With Flower's number for the key of that fingerprint."""
        return Register(
            enrolments=tuple(
                entry.model_copy(update={"node_id": node_id}) if entry.fingerprint == mark else entry
                for entry in self.enrolments
            )
        )

    def _revoked(self, clinic: str) -> tuple[Enrolment, ...]:
        gone = {"revoked": _now()}
        return tuple(
            entry.model_copy(update=gone) if entry.clinic == clinic and entry.is_active else entry
            for entry in self.enrolments
        )


def read_register(path: Path) -> Register:
    """The register in a file; empty where there is none.

    Raises:
        DataError: the file is damaged.
    """
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return validated(Register, values, path.name)
    except FileNotFoundError:
        return Register()
    except (ValueError, SettingError) as error:
        raise DataError(f"register {path} is damaged: {error}", remedy="restore it from a backup") from error


def write_register(path: Path, register: Register) -> None:
    """Write the register, whole or not at all."""
    write_atomically(path, register.model_dump_json(indent=1).encode())


@contextmanager
def changing(path: Path) -> Iterator[None]:
    """Hold the register while it is read, changed and written: commands and the running coordinator take turns."""
    with path.with_name(path.name + ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def edition(path: Path) -> tuple[int, ...]:
    """What differs from one content of the register to the next, for the price of a `stat`.

    To be taken before it is read, or after it was written and before `changing` ends. A file system's clock ticks
    every few milliseconds, so the time alone would not tell two writes apart: each puts a new file in place.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        return ()
    return found.st_mtime_ns, found.st_ino, found.st_size


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
