"""
Tests for :mod:`contentcache.wire.tls_socket` and the sendfile pool, with clients that update their keys while they
are sent something (RFC 8446 §4.6.3), and read slowly.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Coroutine, Generator
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from contentcache.config.model import ServerTLS
from contentcache.tls.server import ServerContext
from contentcache.wire.sendfile_pool import SendfilePool
from contentcache.wire.tls_socket import TLSTransport, tls_transport
from tests.tls.certificates import make
from tests.waiting import until
from tests.wire.openssl_client import OpenSSLClient

reactor: Any = global_reactor
T = TypeVar("T")
_BIG = os.urandom(2_000_000)
_LITTLE = 8192
#: Seconds until a test that hangs fails; nothing waits for so long.
_LONG = 60


class _Server(Protocol):
    """Calls ``work`` with its transport once it has received something."""

    transport: Any

    def __init__(self, work: Callable[[Any], object]) -> None:
        self.work: Callable[[Any], object] | None = work
        self.received = b""

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        work, self.work = self.work, None
        if work is not None:
            work(self.transport)


class KeyUpdateTests(TestCase):
    """One connection over small buffers, with a client that calls OpenSSL itself."""

    timeout = 2 * _LONG

    def setUp(self) -> None:
        certificate, key = make("cache", hosts=("127.0.0.1",)).write(self.mktemp(), "cache")
        run: Any = deferToThread
        self.blocked, self.asked = blocked, asked = threading.Event(), threading.Event()
        self.send: Callable[[Any], Coroutine[Any, Any, None]] = self.send_file
        transport: Any = tls_transport(ServerContext(ServerTLS(certificate, key))).with_pool(
            SendfilePool(run, 1)
        )

        class Narrow(transport):  # type: ignore[misc]
            """Has small buffers."""

            def __init__(self, sock: socket.socket, *args: Any) -> None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LITTLE)
                super().__init__(sock, *args)

            def doRead(self) -> Any:
                """Record that something has arrived while a write was incomplete."""
                if blocked.is_set():
                    asked.set()
                return super().doRead()

            def _transfer_ended(self, result: None, transfer: Any, sent: Any) -> None:
                super()._transfer_ended(result, transfer, sent)
                if transfer.pending:
                    blocked.set()

            def _encrypt(self, data: Any) -> Any:
                count = super()._encrypt(data)
                if count == 0:
                    blocked.set()
                return count

        factory = Factory()
        factory.noisy = False
        self.servers: list[_Server] = []
        factory.buildProtocol = self._build  # type: ignore[method-assign, assignment]
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        port.transport = Narrow
        self.number = port.getHost().port
        self.addCleanup(port.stopListening)
        path = self.mktemp()
        Path(path).write_bytes(_BIG)
        self.file = os.open(path, os.O_RDONLY)
        self.addCleanup(os.close, self.file)

    def _build(self, _address: object) -> _Server:
        self.servers.append(_Server(self.work))
        return self.servers[-1]

    def work(self, transport: TLSTransport) -> None:
        """Send all and end."""
        going = Deferred.fromCoroutine(self.send(transport))
        going.addBoth(lambda _sent: transport.loseConnection())

    async def send_file(self, transport: TLSTransport) -> None:
        """Send all from the reactor."""
        await transport.send_file(self.file, 0, len(_BIG))

    async def send_by_both(self, transport: TLSTransport) -> None:
        """Send all, alternately by a thread and from the reactor."""
        start = 0
        while start < len(_BIG):
            start += await transport.send_by_pool(self.file, start, len(_BIG))
            stop = min(start + 100_000, len(_BIG))
            if start < stop:
                start += await transport.send_file(self.file, start, stop)

    def client(self, work: Callable[[OpenSSLClient], T]) -> Deferred[T]:
        """Run a client with a small buffer in a thread."""

        def run() -> T:
            plain = socket.socket()
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            plain.connect(("127.0.0.1", self.number))
            with OpenSSLClient(plain) as client:
                client.send(b"hello")
                return work(client)

        return deferToThread(run)

    @inlineCallbacks
    def test_while_blocked(self) -> Generator[Deferred[Any], Any, None]:
        """Three updates that arrive while a record is half written do not affect what is sent."""

        got = yield self.client(self.update_while_blocked)
        self.assertEqual(got, _BIG)

    @inlineCallbacks
    def test_after_transfer(self) -> Generator[Deferred[Any], Any, None]:
        """The same where a thread of the sendfile pool has started the record, and the reactor finishes it."""
        self.send = self.send_by_both
        got = yield self.client(self.update_while_blocked)
        self.assertEqual(got, _BIG)

    def update_while_blocked(self, client: OpenSSLClient) -> bytes:
        """A client that reads nothing before it has updated its keys three times."""
        self.blocked.wait(_LONG)
        for _ in range(3):
            client.update_keys()
        self.asked.wait(_LONG)
        return client.read_all()

    @inlineCallbacks
    def test_between_reads(self) -> Generator[Deferred[Any], Any, None]:
        """Two updates after each of many small reads do not affect it either."""
        got = yield self.client(_read_and_update)
        self.assertEqual(got, _BIG)

    @inlineCallbacks
    def test_by_pool(self) -> Generator[Deferred[Any], Any, None]:
        """The same where threads of the sendfile pool and the reactor send alternately."""
        self.send = self.send_by_both
        got = yield self.client(_read_and_update)
        self.assertEqual(got, _BIG)

    @inlineCallbacks
    def test_from_buffer(self) -> Generator[Deferred[Any], Any, None]:
        """The same where the protocol above has written the bytes."""

        async def send(transport: Any) -> None:
            transport.write(_BIG)

        self.send = send
        got = yield self.client(_read_and_update)
        self.assertEqual(got, _BIG)

    @inlineCallbacks
    def test_requests_after_updates(self) -> Generator[Deferred[Any], Any, None]:
        """What a client sends while nothing is read from it, since a write is incomplete, is read afterwards."""

        def work(client: OpenSSLClient) -> bytes:
            self.blocked.wait(_LONG)
            client.update_keys()
            client.send(b" and more")
            self.asked.wait(_LONG)
            return client.read_all()

        got = yield self.client(work)
        yield until(lambda: self.servers[0].received == b"hello and more")
        self.assertEqual(got, _BIG)


def _read_and_update(client: OpenSSLClient) -> bytes:
    got = bytearray()
    while data := client.read(20_000):
        got += data
        if len(got) < len(_BIG) - 100_000:
            client.update_keys()
            client.update_keys()
    return bytes(got)
