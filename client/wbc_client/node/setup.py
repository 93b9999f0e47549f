"""`wbc-client init`: a clinic's folder with its key and an example clinic file."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from wbc_common.errors import SettingError
from wbc_common.keys import fingerprint, make_key, read_public_key
from wbc_common.study import ClinicId

_CLINIC_FILE = """\
clinic = "{clinic}"
study = "study.toml"          # the plan, from the coordinator; a message under another plan is refused
device = "auto"               # auto takes a GPU where there is one | cpu | cuda | cuda:1
gpu_share = 1.0               # at most this share of its memory, where other programs use it too

[coordinator]
address = "{address}"         # the one place this clinic connects to
ca = "ca.pem"                 # the study's own authority, from the coordinator
key = "keys/clinic.key"       # made here, stays here

[data]
kind = "manifest"             # manifest | folders (one folder a class) | packed
path = "cells/manifest.csv"
"""


@dataclass(frozen=True)
class NewClinic:
    """What init made: the clinic file, the public key to send, and its fingerprint."""

    clinic_file: Path
    public_key: Path
    line: str
    fingerprint: str


def make_clinic(folder: Path, clinic: str, address: str) -> NewClinic:
    """Make a key, and a clinic file where there is none.

    Raises:
        SettingError: the name is none, or there is a key already.
    """
    try:
        TypeAdapter(ClinicId).validate_python(clinic)
    except ValidationError as error:
        raise SettingError(
            f"'{clinic}' is no clinic name", remedy="use letters, digits, '-', '_' and '.', as the plan does"
        ) from error
    folder.mkdir(parents=True, exist_ok=True)
    key = folder / "keys" / "clinic.key"
    line = make_key(key, clinic)
    clinic_file = folder / "clinic.toml"
    if not clinic_file.exists():
        clinic_file.write_text(_CLINIC_FILE.format(clinic=clinic, address=address), encoding="utf-8")
    return NewClinic(clinic_file, key.with_name("clinic.key.pub"), line, fingerprint(read_public_key(line)))
