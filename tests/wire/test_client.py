"""Tests for :mod:`contentcache.wire.client`, with a server that answers, and closes with something unread."""

from __future__ import annotations

import socket
from collections.abc import Generator
from typing import Any

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from contentcache.wire.client import EarlyResponseReactor

reactor: Any = global_reactor
_ANSWER = b"401, and here is why"


class _Client(Protocol):
    """Stores what it receives."""

    transport: Any

    def __init__(self) -> None:
        self.received = b""
        self.lost: Deferred[object] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.callback(reason.type)


class HearingTests(TestCase):
    """One connection to a socket that the test controls."""

    @inlineCallbacks
    def connect(self) -> Generator[Deferred[Any], Any, None]:
        """The two ends."""
        listening = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listening.close)
        factory: Any = Factory.forProtocol(_Client)
        factory.noisy = False
        hearing: Any = EarlyResponseReactor(reactor)
        way = HostnameEndpoint(hearing, "127.0.0.1", listening.getsockname()[1])
        self.client: Any = yield way.connect(factory)
        self.server, _ = listening.accept()
        self.addCleanup(self.server.close)

    def say_and_reset(self) -> None:
        """The server responds, and closes with unread bytes."""
        self.client.transport.getHandle().send(b"?")
        self.server.sendall(_ANSWER)
        self.server.close()

    def write_as_the_reactor_does(self) -> None:
        """Write after the reactor has polled the sockets, when the reset has arrived."""
        transport = self.client.transport
        result = None
        while result is None:
            transport.dataBuffer = b"more"
            result = transport.doWrite()
        self.assertIsInstance(result, ConnectionLost)
        reactor._disconnectSelectable(transport, result, False)

    @inlineCallbacks
    def test_write_fails(self) -> Generator[Deferred[Any], Any, None]:
        """A write fails before the response was read: the response is received, then the loss of the connection."""
        yield self.connect()
        self.say_and_reset()
        self.write_as_the_reactor_does()
        reason = yield self.client.lost
        self.assertEqual((self.client.received, reason), (_ANSWER, ConnectionLost))

    @inlineCallbacks
    def test_paused(self) -> Generator[Deferred[Any], Any, None]:
        """
        Who has paused meanwhile gets it once he goes on, however often he writes before; nothing is turned
        over and over until then.
        """
        yield self.connect()
        transport = self.client.transport
        transport.pauseProducing()
        self.say_and_reset()
        for _ in range(3):
            transport.write(b"more" * 100_000)
            yield deferLater(reactor, 0)
        self.assertNotIn(transport, reactor.getWriters())
        self.assertFalse(self.client.lost.called)
        transport.resumeProducing()
        reason = yield self.client.lost
        self.assertEqual((self.client.received, reason), (_ANSWER, ConnectionLost))

    @inlineCallbacks
    def test_given_up(self) -> Generator[Deferred[Any], Any, None]:
        """A paused protocol that aborts or closes the connection then is disconnected."""
        for end in ("loseConnection", "abortConnection"):
            yield self.connect()
            self.client.transport.pauseProducing()
            self.say_and_reset()
            self.write_as_the_reactor_does()
            getattr(self.client.transport, end)()
            reason = yield self.client.lost
            self.assertEqual((self.client.received, reason), (b"", ConnectionAborted))

    @inlineCallbacks
    def test_ends(self) -> Generator[Deferred[Any], Any, None]:
        """All other ends are Twisted's: the server's, the client's, and a reset that is read first."""
        yield self.connect()
        self.server.sendall(_ANSWER)
        self.server.close()
        reason = yield self.client.lost
        self.assertEqual((self.client.received, reason), (_ANSWER, ConnectionDone))
        yield self.connect()
        self.client.transport.write(b"bye")
        self.client.transport.loseConnection()
        reason = yield self.client.lost
        self.assertEqual((self.server.recv(10), reason), (b"bye", ConnectionDone))
        yield self.connect()
        self.client.transport.getHandle().send(b"?")
        self.server.close()
        reason = yield self.client.lost
        self.assertEqual(reason, ConnectionLost)
