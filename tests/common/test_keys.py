"""Clinic keys: of the kind Flower takes, private to their owner, known by the fingerprint that OpenSSH prints."""

import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_private_key

from wbc_common.errors import SettingError
from wbc_common.keys import fingerprint, make_key, read_private_key, read_public_key, sign, signed_headers, verifies
from wbc_common.link import CLOCK_AHEAD_SECONDS, CLOCK_BEHIND_SECONDS, KEY_HEADER, SIGNATURE_HEADER, TIME_HEADER


def test_a_key_is_p384_in_openssh_form_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "clinic.key"
    line = make_key(path, "munich")
    assert path.read_bytes().startswith(b"-----BEGIN OPENSSH PRIVATE KEY-----")
    assert path.stat().st_mode & 0o777 == 0o600
    assert line.startswith("ecdsa-sha2-nistp384 ")
    assert line.endswith(" munich")
    assert (tmp_path / "keys" / "clinic.key.pub").read_text() == line + "\n"
    key = load_ssh_private_key(path.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)


def test_a_key_that_exists_is_never_overwritten(tmp_path: Path) -> None:
    make_key(tmp_path / "k", "munich")
    with pytest.raises(SettingError, match="there is a key"):
        make_key(tmp_path / "k", "munich")


def test_the_fingerprint_is_the_one_that_ssh_keygen_prints(tmp_path: Path) -> None:
    line = make_key(tmp_path / "k", "munich")
    try:
        printed = subprocess.run(["ssh-keygen", "-l", "-f", str(tmp_path / "k.pub")], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("OpenSSH is not installed here")
    assert printed.stdout.split()[1] == fingerprint(read_public_key(line))


def test_a_key_that_others_may_read_is_refused_with_the_remedy(tmp_path: Path) -> None:
    make_key(tmp_path / "k", "munich")
    (tmp_path / "k").chmod(0o644)
    with pytest.raises(SettingError, match="others may read") as refused:
        read_private_key(tmp_path / "k")
    assert "chmod 600" in refused.value.remedy


def test_a_key_with_a_passphrase_is_refused_with_how_to_take_it_off(tmp_path: Path) -> None:
    make_key(tmp_path / "k", "munich")
    try:
        subprocess.run(["ssh-keygen", "-q", "-p", "-N", "a passphrase", "-f", str(tmp_path / "k")], check=True)
    except FileNotFoundError:
        pytest.skip("OpenSSH is not installed here")
    with pytest.raises(SettingError, match="has a passphrase") as refused:
        read_private_key(tmp_path / "k")
    assert f"ssh-keygen -p -f {tmp_path / 'k'}" in refused.value.remedy


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("-----BEGIN OPENSSH PRIVATE KEY-----", "private key"),
        ("hello", "no OpenSSH public key"),
        ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ", "not of the kind"),
    ],
)
def test_what_is_no_public_key_of_the_kind_is_refused(line: str, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        read_public_key(line)


def test_a_signature_holds_for_its_content_and_key_alone(tmp_path: Path) -> None:
    make_key(tmp_path / "k", "munich")
    key, other = read_private_key(tmp_path / "k"), ec.generate_private_key(ec.SECP384R1())
    signature = sign(key, b"plan")
    assert verifies(key.public_key(), b"plan", signature)
    assert not verifies(key.public_key(), b"plam", signature)
    assert not verifies(other.public_key(), b"plan", signature)
    assert not verifies(key.public_key(), b"plan", "no base64")


def test_headers_tolerances_and_signatures_are_flowers(tmp_path: Path) -> None:
    from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_HEADER, TIMESTAMP_TOLERANCE
    from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
    from flwr.supercore.primitives.asymmetric import bytes_to_public_key, verify_signature

    assert (KEY_HEADER, SIGNATURE_HEADER) == (FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER)
    assert TIME_HEADER == TIMESTAMP_HEADER
    assert CLOCK_AHEAD_SECONDS == SYSTEM_TIME_TOLERANCE
    assert CLOCK_BEHIND_SECONDS == TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE
    import base64

    make_key(tmp_path / "k", "munich")
    headers = signed_headers(read_private_key(tmp_path / "k"))
    key = bytes_to_public_key(base64.b64decode(headers[KEY_HEADER]))
    assert verify_signature(key, headers[TIME_HEADER].encode(), base64.b64decode(headers[SIGNATURE_HEADER]))
    openssh = key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    assert (tmp_path / "k.pub").read_text().startswith(openssh)
