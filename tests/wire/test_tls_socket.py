"""Tests for :mod:`contentcache.wire.tls_socket`: TLS 1.2 and 1.3, over sockets whose buffers are small."""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from contentcache.config.model import ServerTLS
from contentcache.tls.server import ServerContext
from contentcache.wire.tls_socket import TLSTransport, tls_transport
from tests.tls.certificates import make

reactor: Any = global_reactor
T = TypeVar("T")
_VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
_BIG = os.urandom(3_000_000)


class _Server(Protocol):
    """Stores what it receives, and calls ``work`` once with its transport as soon as there is something."""

    transport: Any
    work: Callable[[Any], object] | None = None

    def __init__(self) -> None:
        self.received = b""
        self.lost: Deferred[object] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        work, self.work = self.work, None
        if work is not None:
            work(self.transport)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.callback(reason.value)


class SocketTests(TestCase):
    """One connection, a blocking client in a thread."""

    def setUp(self) -> None:
        folder = self.mktemp()
        authority = make("authority", authority=True)
        certificate, key = make("cache", signed_by=authority, hosts=("127.0.0.1",)).write(folder, "cache")
        self.mine = make("client", signed_by=authority).write(folder, "client")
        clientcas, _ = authority.write(folder, "authority")
        settings = ServerTLS(certificate, key, clientcas=(clientcas,), clientauth="request-client-cert")
        self.contexts = ServerContext(settings)
        self.listen(8192)

    def listen(self, buffer: int) -> None:
        """Listen; the kernel buffers about ``buffer`` bytes of what is sent."""
        self.servers: list[_Server] = []
        transport: Any = tls_transport(self.contexts)

        class Narrow(transport):  # type: ignore[misc]
            """Has small buffers."""

            def __init__(self, sock: socket.socket, *args: Any) -> None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
                super().__init__(sock, *args)

        factory = Factory()
        factory.noisy = False
        factory.buildProtocol = self._build  # type: ignore[method-assign, assignment]
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        port.transport = Narrow
        self.number = port.getHost().port
        self.work: Callable[[Any], object] | None = None
        self.addCleanup(port.stopListening)

    def _build(self, _address: object) -> _Server:
        server = _Server()
        server.work = self.work
        self.servers.append(server)
        return server

    def client(
        self, work: Callable[[ssl.SSLSocket], T], version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
    ) -> Deferred[T]:
        """Run a client; an end without ``close_notify`` raises."""

        def run() -> T:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            context.minimum_version = context.maximum_version = version
            context.load_cert_chain(*self.mine)
            with (
                socket.create_connection(("127.0.0.1", self.number), 20) as plain,
                context.wrap_socket(plain, suppress_ragged_eofs=False) as connection,
            ):
                return work(connection)

        return deferToThread(run)

    @inlineCallbacks
    def test_both_ways(self) -> Generator[Deferred[Any], Any, None]:
        """Large data is received unchanged both ways, and each side is notified of the other's end."""
        for version in _VERSIONS:
            self.work = lambda transport: (transport.write(_BIG), transport.write(b"end"))

            def work(connection: ssl.SSLSocket) -> bytes:
                connection.sendall(b"hello")
                got = _read(connection, len(_BIG) + 3)
                connection.sendall(_BIG)
                connection.unwrap()
                return got

            got = yield self.client(work, version)
            server = self.servers.pop()
            yield server.lost
            self.assertEqual(got, _BIG + b"end")
            self.assertEqual(server.received, b"hello" + _BIG)

    @inlineCallbacks
    def test_file(self) -> Generator[Deferred[Any], Any, None]:
        """A file is sent between what was written before and after it; then TLS ends with ``close_notify``."""
        path = self.mktemp()
        Path(path).write_bytes(_BIG)
        with open(path, "rb") as file:

            def send(transport: Any) -> None:
                transport.write(b"<" * 100_000)
                sending = transport.send_file(file.fileno(), 10, len(_BIG) + 1)
                sending.addCallback(sent.append)
                sending.addCallback(lambda _: (transport.write(b">"), transport.loseConnection()))

            for version in _VERSIONS:
                sent: list[int] = []
                self.work = send
                got = yield self.client(_ask_and_read, version)
                self.assertEqual(got, b"<" * 100_000 + _BIG[10:] + b">")
                self.assertEqual(sent, [len(_BIG) - 10])
                yield self.servers.pop().lost

    @inlineCallbacks
    def test_given_up(self) -> Generator[Deferred[Any], Any, None]:
        """A file that is cancelled in the middle ends the connection short, with ``close_notify``."""
        path = self.mktemp()
        Path(path).write_bytes(_BIG)
        given_up = threading.Event()
        with open(path, "rb") as file:

            def send(transport: Any) -> None:
                sending = transport.send_file(file.fileno(), 0, len(_BIG))
                sending.addErrback(lambda _: None)
                reactor.callLater(0.05, give_up, sending, transport)

            def give_up(sending: Deferred[Any], transport: Any) -> None:
                sending.cancel()
                transport.loseConnection()
                given_up.set()

            def work(connection: ssl.SSLSocket) -> bytes:
                connection.sendall(b"hello")
                given_up.wait(20)
                return _read(connection, len(_BIG))

            self.work = send
            got = yield self.client(work)
            self.assertLess(len(got), len(_BIG))
            self.assertEqual(got, _BIG[: len(got)])
            yield self.servers.pop().lost

    @inlineCallbacks
    def test_at_once(self) -> Generator[Deferred[Any], Any, None]:
        """What is sent at once is not sent twice where the socket accepts only a part."""

        def send(transport: Any) -> None:
            for number in range(200):
                transport.write_now(b"%04d" % number * 4000)
            transport.loseConnection()

        self.work = send
        got = yield self.client(_ask_and_read)
        self.assertEqual(got, b"".join(b"%04d" % number * 4000 for number in range(200)))

    @inlineCallbacks
    def test_paused(self) -> Generator[Deferred[Any], Any, None]:
        """What OpenSSL has read ahead while reading was paused is delivered."""

        def pause(transport: Any) -> None:
            transport.pauseProducing()
            reactor.callLater(0.05, transport.resumeProducing)

        def work(connection: ssl.SSLSocket) -> None:
            connection.sendall(b"x" * 500_000)
            connection.unwrap()

        self.work = pause
        yield self.client(work)
        (server,) = self.servers
        yield server.lost
        self.assertEqual(len(server.received), 500_000)

    @inlineCallbacks
    def test_secure(self) -> Generator[Deferred[Any], Any, None]:
        """To protocols it is a secure transport with the client's certificate."""
        seen: list[Any] = []

        def look(transport: Any) -> None:
            seen.append((ISSLTransport.providedBy(transport), transport.getPeerCertificate()))
            transport.loseConnection()

        self.work = look
        yield self.client(_ask_and_read)
        ((is_secure, certificate),) = seen
        self.assertTrue(is_secure)
        self.assertEqual(certificate.get_subject().CN, "client")

    @inlineCallbacks
    def test_no_tls(self) -> Generator[Deferred[Any], Any, None]:
        """A client that does not speak TLS, or disconnects, is disconnected."""

        def work(words: bytes) -> None:
            with socket.create_connection(("127.0.0.1", self.number), 20) as plain:
                plain.sendall(words)
                if words:
                    plain.recv(100)

        for words in (b"GET / HTTP/1.1\r\n\r\n", b""):
            yield deferToThread(work, words)
            yield self.servers[-1].lost
            self.assertEqual(self.servers.pop().received, b"")
        self.assertEqual(self.flushLoggedErrors(), [])

    @inlineCallbacks
    def test_new_certificate(self) -> Generator[Deferred[Any], Any, None]:
        """The next connection uses the current certificate."""
        self.work = lambda transport: transport.loseConnection()
        seen = set()
        for _ in range(2):
            seen.add((yield self.client(lambda connection: connection.getpeercert(binary_form=True))))
            certificate, key = make("cache", hosts=("127.0.0.1",)).write(self.mktemp(), "cache")
            self.contexts = ServerContext(ServerTLS(certificate, key))
            self.listen(8192)
        self.assertEqual(len(seen), 2)
        self.assertTrue(issubclass(tls_transport(self.contexts), TLSTransport))


def _read(connection: ssl.SSLSocket, most: int) -> bytes:
    data = b""
    while len(data) < most and (piece := connection.recv(1 << 16)):
        data += piece
    return data


def _ask_and_read(connection: ssl.SSLSocket) -> bytes:
    connection.sendall(b"hello")
    return _read(connection, 1 << 30)
