"""Who may pass the gateway: enrolled keys, fresh signatures, each one once, and not too often.

Flower's node signature covers a timestamp alone and holds for five minutes: whoever sees a request can send it again.
Here each signed time of a key passes once. What a stranger sends is refused before its body is read. The register is
read again when it changes: a revoked key is refused with its next request.
"""

import base64
import binascii
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from wbc_common.keys import read_public_key, verifies
from wbc_common.link import CLOCK_AHEAD_SECONDS, CLOCK_BEHIND_SECONDS, KEY_HEADER, SIGNATURE_HEADER, TIME_HEADER
from wbc_server.link.register import Enrolment, edition, read_register


class Headers(Protocol):
    """What is needed of a request's headers."""

    def get(self, key: str, /) -> str | None:
        """The value of a header."""


class Refused(Exception):
    """A request that does not pass, with its HTTP status and the words for the log and the answer."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status
        self.why = why


@dataclass
class _Visitor:
    enrolment: Enrolment
    tokens: float
    filled_at: float


@dataclass
class Doorkeeper:
    """Checks requests against the register.

    Attributes:
        register: path of the register.
        requests_per_second: of one key on average; a burst of five seconds' worth passes.
    """

    register: Path
    requests_per_second: float
    _seen: "OrderedDict[tuple[bytes, str], float]" = field(default_factory=OrderedDict)
    _visitors: dict[bytes, _Visitor] = field(default_factory=dict)
    _read: tuple[int, ...] | None = None

    def admit(self, headers: Headers) -> Enrolment:
        """The enrolment behind a request.

        Raises:
            Refused: 401 key unknown or revoked, clock off, signature wrong or used before; 503 too many requests.
        """
        pem, signed_at, signature = _proof(headers)
        visitor = self._visitor(pem)
        _check_clock(signed_at)
        if not verifies(read_public_key(visitor.enrolment.key), signed_at.encode(), signature):
            raise Refused(401, f"signature of clinic {visitor.enrolment.clinic} is wrong")
        self._check_fresh(pem, signed_at, visitor.enrolment.clinic)
        self._take_token(visitor)
        return visitor.enrolment

    def check_enrolled(self, headers: Headers) -> None:
        """Whether the key of an admitted request still counts.

        Raises:
            Refused: 401, it was revoked since.
        """
        self._visitor(_proof(headers)[0])

    def _visitor(self, pem: bytes) -> _Visitor:
        self._reread()
        if pem not in self._visitors:
            raise Refused(401, "key is not enrolled, or is revoked")
        return self._visitors[pem]

    def _reread(self) -> None:
        current = edition(self.register)
        if current == self._read:
            return
        active = read_register(self.register).active().values()
        burst, now = 5 * self.requests_per_second, time.monotonic()
        self._visitors = {entry.pem: self._visitors.get(entry.pem, _Visitor(entry, burst, now)) for entry in active}
        self._read = current

    def _check_fresh(self, pem: bytes, signed_at: str, clinic: str) -> None:
        now = time.monotonic()
        while self._seen and next(iter(self._seen.values())) < now - CLOCK_AHEAD_SECONDS - CLOCK_BEHIND_SECONDS:
            self._seen.popitem(last=False)
        if (pem, signed_at) in self._seen:
            raise Refused(401, f"request of clinic {clinic} was seen before")
        self._seen[pem, signed_at] = now

    def _take_token(self, visitor: _Visitor) -> None:
        now = time.monotonic()
        gained = (now - visitor.filled_at) * self.requests_per_second
        visitor.tokens = min(visitor.tokens + gained, 5 * self.requests_per_second)
        visitor.filled_at = now
        if visitor.tokens < 1:
            raise Refused(503, f"too many requests of clinic {visitor.enrolment.clinic}")
        visitor.tokens -= 1


def _proof(headers: Headers) -> tuple[bytes, str, str]:
    key, signed_at, signature = (headers.get(name) for name in (KEY_HEADER, TIME_HEADER, SIGNATURE_HEADER))
    if key is None or signed_at is None or signature is None:
        raise Refused(401, "request is not signed")
    try:
        return base64.b64decode(key, validate=True), signed_at, signature
    except (binascii.Error, ValueError) as error:
        raise Refused(401, "key is not readable") from error


def _check_clock(signed_at: str) -> None:
    try:
        age = (datetime.now(UTC) - datetime.fromisoformat(signed_at)).total_seconds()
    except (ValueError, TypeError) as error:
        raise Refused(401, "time of signature is not readable") from error
    if not -CLOCK_AHEAD_SECONDS < age < CLOCK_BEHIND_SECONDS:
        raise Refused(401, f"clock is off by {-age:.0f} s")
