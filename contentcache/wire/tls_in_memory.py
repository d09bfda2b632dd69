"""
Twisted's own TLS, which passes bytes through memory, for ports without the fast path.

It answers a client's ``close_notify`` by ending the connection below, and does not tell the protocol above,
which would go on to write, to nobody, as long as the client reads what is buffered. Here the protocol hears
of it as of a FIN over TCP.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory


class _Transport(BufferingTLSTransport):
    """Tells a protocol that is ``IHalfCloseableProtocol`` that the client has ended its side."""

    def _tlsShutdownFinished(self, reason: Any) -> None:
        ended_by_client = reason is None and not self.disconnecting
        super()._tlsShutdownFinished(reason)
        protocol: Any = IHalfCloseableProtocol(self.wrappedProtocol, None)
        if ended_by_client and protocol is not None:
            protocol.readConnectionLost()


class TLSFactory(TLSMemoryBIOFactory):
    """``TLSMemoryBIOFactory`` with such transports."""

    protocol = _Transport
