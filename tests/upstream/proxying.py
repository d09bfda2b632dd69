"""Proxies for the tests: one on loopback, and one that is only a string."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

reactor: Any = global_reactor


class _Wire(StringTransport):
    """A transport that remembers that it was cut."""

    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True


class Wired:
    """An endpoint to a proxy that is a string."""

    def __init__(self) -> None:
        self.transport = _Wire()

    def connect(self, factory: Any) -> Deferred[Any]:
        self.protocol = factory.buildProtocol(None)
        self.protocol.makeConnection(self.transport)
        made: Deferred[Any] = Deferred()
        made.callback(self.protocol)
        return made


class Relay(Protocol):
    """Bytes from here to there."""

    def __init__(self) -> None:
        self.other: Any = None

    def dataReceived(self, data: bytes) -> None:
        self.other.transport.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.loseConnection()


class ConnectProxy(Relay):
    """A proxy that knows ``CONNECT`` and nothing else; every name is loopback."""

    def connectionMade(self) -> None:
        self._head = b""

    def dataReceived(self, data: bytes) -> None:
        if self.other is not None:
            super().dataReceived(data)
            return
        self._head += data
        if b"\r\n\r\n" not in self._head:
            return
        factory: Any = self.factory
        factory.heads.append(self._head)
        transport: Any = self.transport
        if factory.answer is not None:
            transport.write(factory.answer)
            if factory.hang_up:
                transport.loseConnection()
            return
        port = int(self._head.split(b" ")[1].rpartition(b":")[2])
        endpoint: Any = TCP4ClientEndpoint(reactor, "127.0.0.1", port)
        connecting: Deferred[Any] = endpoint.connect(Factory.forProtocol(Relay))
        connecting.addCallback(self._connected)

    def _connected(self, other: Relay) -> None:
        transport: Any = self.transport
        self.other, other.other = other, self
        transport.write(b"HTTP/1.1 103 Wait\r\n\r\nHTTP/1.1 200 Connection established\r\nX: y\r\n\r\n")


class ConnectProxyFactory(Factory):
    """Remembers the heads that proxies of it got. With ``answer`` it says that instead of connecting."""

    protocol = ConnectProxy
    noisy = False

    def __init__(self, answer: bytes | None = None, hang_up: bool = False) -> None:
        self.heads: list[bytes] = []
        self.answer = answer
        self.hang_up = hang_up
