"""TLS between a client and a server in memory, over Twisted's own protocols."""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer


class End(Protocol):
    """One end's application: what it got, and why it ended."""

    def __init__(self) -> None:
        self.received = b""
        self.reason: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.reason = reason


class _Wire(StringTransport):
    """A transport that records that it was closed."""

    closed = False

    def loseConnection(self) -> None:
        self.closed = True

    def abortConnection(self) -> None:
        self.closed = True


@implementer(IOpenSSLClientConnectionCreator)
class PlainClient:
    """A client that trusts every certificate, with the context of a test."""

    def __init__(self, version: int = SSL.TLS1_3_VERSION, protocols: list[bytes] | None = None) -> None:
        self.context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        self.context.set_min_proto_version(version)
        self.context.set_max_proto_version(version)
        if protocols:
            self.context.set_alpn_protos(protocols)
        self.session: SSL.Session | None = None

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        connection = SSL.Connection(self.context, None)
        connection.set_app_data(tlsProtocol)
        if self.session is not None:
            connection.set_session(self.session)
        return connection


class Handshake:
    """A handshake between two connection creators, and a message each way after it."""

    def __init__(self, client: Any, server: Any) -> None:
        self.client, self.client_tls, client_wire = _end(client, True)
        self.server, self.server_tls, server_wire = _end(server, False)
        self.client_connection: SSL.Connection = self.client_tls.getHandle()
        self.server_connection: SSL.Connection = self.server_tls.getHandle()
        self._wires = [(client_wire, self.server_tls), (server_wire, self.client_tls)]
        self.client_tls.write(b"hello from the client")
        self.server_tls.write(b"hello from the server")
        self.pump()

    def pump(self) -> None:
        """Deliver bytes both ways until there are none, then the close."""
        moved = True
        while moved:
            moved = False
            for wire, other in self._wires:
                data = wire.value()
                wire.clear()
                if data:
                    moved = True
                    other.dataReceived(data)
        if any(wire.closed for wire, _ in self._wires):
            for _, tls in self._wires:
                if tls.connected:
                    tls.connectionLost(Failure(connectionDone.value))

    @property
    def succeeded(self) -> bool:
        """Whether each end has received the other's message."""
        return (self.client.received, self.server.received) == (
            b"hello from the server",
            b"hello from the client",
        )


def _end(creator: Any, is_client: bool) -> tuple[End, Any, _Wire]:
    """One end: its application, its TLS, its wire."""
    clock: Any = Clock()
    application: Any = Factory.forProtocol(End)
    factory = TLSMemoryBIOFactory(creator, is_client, application, clock=clock)
    factory.protocol = TLSMemoryBIOProtocol
    tls = factory.buildProtocol(None)
    wire = _Wire()
    tls.makeConnection(wire)
    return tls.wrappedProtocol, tls, wire
