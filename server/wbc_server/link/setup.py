"""`wbc-server init` and `renew`: a coordinator's folder with its plan, certificates and settings."""

from collections.abc import Sequence
from pathlib import Path

import tomli_w

from wbc_common.errors import SettingError
from wbc_common.study import read_study
from wbc_server.link.certificates import make_authority, make_server_certificate, read_issued
from wbc_server.link.folder import GatewaySettings, StudyFolder
from wbc_server.link.register import Register, write_register

_EXAMPLE_STUDY = """\
# The plan that every party approves. Every other setting has the default of docs/method.md.
name = "my-study"
registry = "wbc5"
rounds = 10

[clinics]
train = ["munich", "vienna", "zurich"]
held_out = ["berlin"]

[participation]
join_minutes = 60      # how long a start waits for the clinics above
round_minutes = 360    # how long a round waits for its answers
quorum = 0.5           # share of the training clinics whose updates a round needs
"""
_LOOPBACK = ("127.0.0.1", "localhost")


def make_folder(path: Path, *, hosts: Sequence[str], port: int, bind: str, study: Path | None) -> StudyFolder:
    """A new coordinator's folder.

    Raises:
        SettingError: there is one already, or the given plan is wrong.
    """
    folder = StudyFolder(path)
    if folder.settings_file.exists():
        raise SettingError(
            f"{path} is a coordinator's folder already", remedy="use it, or name another folder; nothing was changed"
        )
    path.mkdir(parents=True, exist_ok=True)
    if study is not None:
        read_study(study)
        folder.study_file.write_bytes(study.read_bytes())
    elif not folder.study_file.exists():
        folder.study_file.write_text(_EXAMPLE_STUDY, encoding="utf-8")
    make_authority(folder.study().name).write(folder.authority, folder.authority_key)
    write_register(folder.register_file, Register())
    settings = GatewaySettings(hosts=tuple(hosts), port=port, bind=bind)
    folder.settings_file.write_bytes(tomli_w.dumps(settings.model_dump(mode="json")).encode())
    renew_certificates(folder)
    return folder


def renew_certificates(folder: StudyFolder) -> None:
    """New certificates for the hosts of `server.toml`, of the same authority: clinics need nothing new.

    Raises:
        SettingError: the authority's key or the settings are missing.
    """
    authority = read_issued(folder.authority, folder.authority_key)
    hosts = folder.settings().hosts
    make_server_certificate(authority, hosts).write(folder.certificate, folder.certificate_key)
    make_server_certificate(authority, _LOOPBACK).write(folder.link_certificate, folder.link_key)
