"""The study's certificates: an authority of its own, the gateway's certificate, and one for loopback.

Clinics trust this authority alone, so a certificate that some public authority was talked into does not open them. It
may sign servers only (path length 0, no names of its own), and its key is used when a certificate is made, never while
a study runs: it can be kept elsewhere. Times have a day's grace backwards, for clinics whose clocks are behind.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from wbc_common.errors import SettingError
from wbc_common.files import write_atomically, write_secret

AUTHORITY_DAYS, SERVER_DAYS = 3650, 397
_GRACE = timedelta(days=1)


@dataclass(frozen=True)
class Issued:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def write(self, certificate: Path, key: Path) -> None:
        """Write both as PEM, the key for its owner alone."""
        write_secret(
            key,
            self.key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )
        write_atomically(certificate, self.certificate.public_bytes(serialization.Encoding.PEM))


def make_authority(study: str) -> Issued:
    """A study's own authority, signed by itself."""
    key = ec.generate_private_key(ec.SECP384R1())
    name = _name(f"wbc-fl study {study}"[:64])
    builder = (
        _builder(name, name, key.public_key(), AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return Issued(builder.sign(key, hashes.SHA384()), key)


def make_server_certificate(authority: Issued, hosts: Sequence[str], *, days: int = SERVER_DAYS) -> Issued:
    """A server's certificate for host names and addresses. `days` below 0 gives one that has expired."""
    key = ec.generate_private_key(ec.SECP384R1())
    issuer = authority.certificate.subject
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    builder = (
        _builder(_name(hosts[0][:64]), issuer, key.public_key(), days)
        .add_extension(x509.SubjectAlternativeName([_alternative(host) for host in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(identifier, critical=False)
    )
    return Issued(builder.sign(authority.key, hashes.SHA384()), key)


def read_issued(certificate: Path, key: Path) -> Issued:
    """A certificate and its key from files.

    Raises:
        SettingError: one of them is missing or no such thing.
    """
    try:
        found = serialization.load_pem_private_key(key.read_bytes(), password=None)
        cert = x509.load_pem_x509_certificate(certificate.read_bytes())
    except (OSError, ValueError) as error:
        raise SettingError(
            f"cannot use {certificate} with {key}: {error}", remedy="restore both files from a backup"
        ) from error
    if not isinstance(found, ec.EllipticCurvePrivateKey):
        raise SettingError(f"{key} is no EC key", remedy="restore the file from a backup")
    return Issued(cert, found)


def days_left(certificate: Path) -> float:
    """Days until a certificate expires; below 0 once it has.

    Raises:
        SettingError: the file is no certificate.
    """
    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
    except (OSError, ValueError) as error:
        raise SettingError(
            f"cannot read certificate {certificate}: {error}", remedy="make it again: wbc-server renew"
        ) from error
    return (found.not_valid_after_utc - datetime.now(UTC)).total_seconds() / 86400


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    end = now + timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, end) - _GRACE)
        .not_valid_after(end)
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
