"""Connections that nobody may hold: one that sends no whole request head, and very many of one address.

uvicorn counts every open connection against its limit, and its timer for idle ones starts with a first answer: a few
hundred connections that complete TLS and say nothing would shut the door on all clinics for ever. An address is a host
in IPv4 and a /64 network in IPv6, the least that one subscriber has. This machine itself is not counted: a proxy of the
coordinator's own stands for all clinics and has limits of its own, and a whole federation may run on one machine.
"""

import asyncio
import ipaddress
import logging
import resource
from typing import ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

log = logging.getLogger(__name__)

_THIS_MACHINE = frozenset({"127.0.0.1", "::1"})
_NETWORK_BITS = 64


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP, with an end to waiting for a request's head and a limit for each address.

    Attributes:
        most_per_address: connections that one address may have open.
        head_seconds: from the start of a connection, or of a further request, to the end of that request's head.
    """

    most_per_address: ClassVar[int] = 64
    head_seconds: ClassVar[float] = 10.0
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, unless its address has too many."""
        super().connection_made(transport)
        address = address_of(self.client)
        if address is not None and self._open_of(address) > self.most_per_address:
            log.warning("closed a connection of %s, which has %d open", address, self.most_per_address)
            transport.abort()
            return
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Take what came, and note whether a request's head is whole with it or has begun."""
        before = self.cycle  # made anew with each head
        super().data_received(data)
        if self.cycle is not before:
            self._await_no_head()
        elif before is None or before.response_complete:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._await_no_head()
        super().connection_lost(exc)

    def _open_of(self, address: str) -> int:
        """Connections of an address, with this one."""
        return sum(address_of(getattr(other, "client", None)) == address for other in self.connections)

    def _await_head(self) -> None:
        if self._head_timer is None:
            # Aborted, not closed: an orderly end of TLS waits for the other side.
            self._head_timer = self.loop.call_later(self.head_seconds, self.transport.abort)

    def _await_no_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def address_of(client: tuple[str, int] | None) -> str | None:
    """The address that a connection counts for; None where it does not count."""
    if client is None or client[0] in _THIS_MACHINE:
        return None
    host = ipaddress.ip_address(client[0].partition("%")[0])
    if isinstance(host, ipaddress.IPv4Address):
        return str(host)
    if host.ipv4_mapped is not None:
        return address_of((str(host.ipv4_mapped), client[1]))
    return str(ipaddress.ip_network((host, _NETWORK_BITS), strict=False))


def allow_many_files() -> None:
    """As many open files as the machine permits: a connection here can take another to the SuperLink."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
