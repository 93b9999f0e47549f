"""Clinic keys: EC P-384 in OpenSSH form, the kind that Flower's SuperNode signs with.

The private key is made at the clinic and stays there; what travels is one line of text, compared by its fingerprint
over the telephone.
"""

import base64
import hashlib
import os
from datetime import UTC, datetime
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from wbc_common.errors import SettingError
from wbc_common.link import KEY_HEADER, SIGNATURE_HEADER, TIME_HEADER


def make_key(path: Path, comment: str) -> str:
    """Make a key at `path` (readable by its owner alone) and `path`.pub beside it; returns the public line.

    Raises:
        SettingError: there is a key already.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = ec.generate_private_key(ec.SECP384R1())
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise SettingError(f"there is a key at {path}", remedy="keep it, or move it away to make a new one") from error
    with os.fdopen(handle, "wb") as file:
        file.write(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
            )
        )
    line = f"{_openssh(key.public_key())} {comment}"
    path.with_name(path.name + ".pub").write_text(line + "\n", encoding="utf-8")
    return line


def read_private_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """A clinic's private key.

    Raises:
        SettingError: it is missing, not a P-384 key, has a passphrase, or others may read it.
    """
    try:
        mode, content = path.stat().st_mode, path.read_bytes()
        key = serialization.load_ssh_private_key(content, password=None)
    except OSError as error:
        raise SettingError(f"cannot read key {path}: {error.strerror}", remedy="make one: wbc-client init") from error
    except TypeError as error:  # what cryptography raises for a key that asks for one
        raise SettingError(
            f"key {path} has a passphrase, and nobody is there to type it",
            remedy=f"take it off: ssh-keygen -p -f {path}, or make a new key: wbc-client init",
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SettingError(f"{path} is no OpenSSH private key", remedy="make one: wbc-client init") from error
    if mode & 0o077:
        raise SettingError(f"others may read key {path}", remedy=f"chmod 600 {path}")
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp384r1":
        raise SettingError(f"key {path} is not of the kind EC P-384", remedy="make one: wbc-client init")
    return key


def read_public_key(line: str) -> ec.EllipticCurvePublicKey:
    """The key of a public line.

    Raises:
        SettingError: it is no P-384 key, or it is a private one.
    """
    if "PRIVATE KEY" in line:
        raise SettingError("this is a private key", remedy="delete it here; ask for the file that ends in .pub")
    try:
        key = serialization.load_ssh_public_key(line.strip().encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SettingError("this is no OpenSSH public key", remedy="ask for the file that ends in .pub") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
        raise SettingError("this key is not of the kind EC P-384", remedy="have the clinic run wbc-client init")
    return key


def public_pem(key: ec.EllipticCurvePublicKey) -> bytes:
    """The form in which Flower sends a public key."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """SHA256:…, as `ssh-keygen -l` prints it."""
    digest = hashlib.sha256(base64.b64decode(_openssh(key).split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def sign(key: ec.EllipticCurvePrivateKey, content: bytes) -> str:
    """Signature as base64."""
    return base64.b64encode(key.sign(content, ec.ECDSA(hashes.SHA256()))).decode()


def verifies(key: ec.EllipticCurvePublicKey, content: bytes, signature: str) -> bool:
    """Whether a base64 signature is that key's."""
    try:
        key.verify(base64.b64decode(signature, validate=True), content, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError):
        return False
    return True


def signed_headers(key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    """Headers that prove who asks, now."""
    now = datetime.now(UTC).isoformat()
    return {
        KEY_HEADER: base64.b64encode(public_pem(key.public_key())).decode(),
        TIME_HEADER: now,
        SIGNATURE_HEADER: sign(key, now.encode()),
    }


def _openssh(key: ec.EllipticCurvePublicKey) -> str:
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
