"""Certificates, judged by OpenSSL's own rules: cryptography's verifier, not our code."""

import ipaddress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from wbc_common.errors import SettingError
from wbc_server.link.certificates import (
    AUTHORITY_DAYS,
    SERVER_DAYS,
    Issued,
    days_left,
    make_authority,
    make_server_certificate,
    read_issued,
)


def verify(authority: Issued, server: Issued, name: str) -> None:
    policy = PolicyBuilder().store(Store([authority.certificate])).time(datetime.now(UTC))
    policy.build_server_verifier(x509.DNSName(name)).verify(server.certificate, [])


@pytest.fixture(scope="module")
def authority() -> Issued:
    return make_authority("test")


def test_a_servers_certificate_is_valid_for_its_names_alone(authority: Issued) -> None:
    server = make_server_certificate(authority, ["fl.example.org", "10.0.0.7"])
    verify(authority, server, "fl.example.org")
    with pytest.raises(VerificationError):
        verify(authority, server, "example.org")
    names = server.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("10.0.0.7")]


def test_another_authority_and_an_expired_certificate_are_not_trusted(authority: Issued) -> None:
    with pytest.raises(VerificationError):
        verify(make_authority("test"), make_server_certificate(authority, ["a.org"]), "a.org")
    with pytest.raises(VerificationError):
        verify(authority, make_server_certificate(authority, ["a.org"], days=-1), "a.org")


def test_a_server_cannot_sign_further_servers(authority: Issued) -> None:
    server = make_server_certificate(authority, ["a.org"])
    assert server.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    constraints = authority.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (constraints.ca, constraints.path_length) == (True, 0)


def test_files_keep_the_pair_and_the_days_that_are_left(authority: Issued, tmp_path: Path) -> None:
    authority.write(tmp_path / "ca.pem", tmp_path / "private" / "ca.key")
    make_server_certificate(read_issued(tmp_path / "ca.pem", tmp_path / "private" / "ca.key"), ["a.org"]).write(
        tmp_path / "server.pem", tmp_path / "private" / "server.key"
    )
    assert days_left(tmp_path / "ca.pem") == pytest.approx(AUTHORITY_DAYS, abs=0.01)
    assert days_left(tmp_path / "server.pem") == pytest.approx(SERVER_DAYS, abs=0.01)
    with pytest.raises(SettingError, match="cannot use"):
        read_issued(tmp_path / "ca.pem", tmp_path / "missing.key")
