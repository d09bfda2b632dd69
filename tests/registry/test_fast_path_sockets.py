"""Tests for :mod:`contentcache.registry.fast_path` over sockets that take little at once."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from contentcache.config.model import ServerTLS
from contentcache.delivery.hot_blobs import LARGEST
from contentcache.server.access_log import AccessLog
from contentcache.tls.server import ServerContext
from contentcache.wire.sendfile import FileTransport
from contentcache.wire.tls_socket import tls_transport
from tests.delivery.in_memory import REPOSITORY
from tests.registry.harness import replies, request
from tests.registry.test_fast_path import CacheTestCase
from tests.server.test_channel_sockets import read_all
from tests.server.test_response_ends import RecordedEvents, incomplete
from tests.tls.certificates import make
from tests.waiting import until

reactor: Any = global_reactor
T = TypeVar("T")


def narrow(transport: Any) -> Any:
    """Connections whose machine buffers little."""

    class Narrow(transport):  # type: ignore[misc]
        """As its name says."""

        def __init__(self, sock: socket.socket, *args: Any) -> None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
            super().__init__(sock, *args)

    return Narrow


class NarrowTests(CacheTestCase, TestCase):
    """What the socket does not take at once goes out as the client takes it."""

    fast = True
    tls = False

    def setUp(self) -> None:
        super().setUp()
        self.events = RecordedEvents()
        self.patch(AccessLog, "_event_log", self.events)
        self.content = os.urandom(LARGEST)
        self.digest_of_large = self.there.origin.put_blob(REPOSITORY, self.content)
        self.large = f"/v2/{REPOSITORY}/blobs/{self.digest_of_large}"
        for _ in range(2):
            self.assertEqual(self.ask(self.ann, path=self.large).body, self.content)
        self.forget()
        port = reactor.listenTCP(0, self.factory, interface="127.0.0.1")
        port.transport = narrow(self._secure() if self.tls else FileTransport)
        self.number = port.getHost().port
        self.addCleanup(self._stop, port)

    def _secure(self) -> Any:
        certificate, key = make("cache", hosts=("127.0.0.1",)).write(self.mktemp(), "cache")
        return tls_transport(ServerContext(ServerTLS(certificate, key)))

    @inlineCallbacks
    def _stop(self, port: Any) -> Generator[Deferred[Any], Any, None]:
        yield port.stopListening()
        self.factory.cut()
        yield until(lambda: not self.factory.connections)

    def client(self, work: Callable[[socket.socket], T]) -> Deferred[T]:
        """Run a client in a thread."""

        def run() -> T:
            with socket.socket() as connection:
                # Before it connects: the window is agreed upon then.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
                connection.settimeout(20)
                connection.connect(("127.0.0.1", self.number))
                if not self.tls:
                    return work(connection)
                context = ssl.create_default_context()
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
                with context.wrap_socket(connection, suppress_ragged_eofs=False) as secure:
                    return work(secure)

        return deferToThread(run)

    @inlineCallbacks
    def test_rest(self) -> Generator[Deferred[Any], Any, None]:
        """A blob arrives as it is, and what is asked for behind it in its turn."""
        mine = f"Authorization: {self.ann}"
        data = request(self.large, mine) * 3 + request(self.path, mine) + request("/", "Connection: close")

        def work(connection: socket.socket) -> bytes:
            connection.sendall(data.encode())
            return read_all(connection)

        found = replies((yield self.client(work)))
        bodies = [reply.body for reply in found]
        self.assertEqual([len(body) for body in bodies], [LARGEST] * 3 + [1000, 0])
        self.assertEqual(bodies[:3], [self.content] * 3)
        self.there.clock.advance(0)
        self.assertEqual(sorted(line.sent for line in self.lines), [0, 1000, *[LARGEST] * 3])
        self.assertEqual({line.status for line in self.lines}, {200})
        self.assertEqual(self.begun, 1)

    @inlineCallbacks
    def test_leaves(self) -> Generator[Deferred[Any], Any, None]:
        """
        Who leaves in the middle leaves nothing open, and a line that says how much went out. Until then the
        connection is busy, and the blob in use.
        """

        gone = threading.Event()

        def work(connection: socket.socket) -> None:
            connection.sendall(request(self.large, f"Authorization: {self.ann}").encode())
            connection.recv(100)
            gone.wait(20)

        leaving = self.client(work)
        yield until(lambda: self.factory.busy)
        self.result(self.there.blob_service.flush())
        self.assertTrue(self.there.blob_service.in_use(self.digest_of_large))
        gone.set()
        yield leaving
        yield until(lambda: not self.factory.connections)
        self.there.clock.advance(0)
        (line,) = self.lines
        self.assertLess(line.sent, LARGEST)
        self.assert_incomplete("client")
        yield until(lambda: not self.factory.connections)
        yield until(lambda: len(_open_blobs(self.root)) == len(self.there.blob_service.hot_blobs))
        self.assertEqual(self.flushLoggedErrors(), [])

    @inlineCallbacks
    def test_ended_here(self) -> Generator[Deferred[Any], Any, None]:
        """A client that takes nothing, a shutdown and a file that becomes shorter: each is told apart."""
        (path,) = self.root.rglob(f"{self.digest_of_large.hex}/data")
        ends: list[tuple[str, Callable[[], object]]] = [
            # Each acknowledgement that is still under way starts the time anew.
            ("client", lambda: self.there.clock.pump([20] * 60)),
            ("drain", self.factory.cut),
        ]
        if not self.tls:  # which reads all of it before the socket takes the first byte
            ends.append(("disk", lambda: os.truncate(path, 100)))
        for how, end in ends:
            looked = threading.Event()
            self.assertEqual(self.ask(self.ann, path=self.large).status, 200)
            self.forget()

            def work(connection: socket.socket, looked: threading.Event = looked) -> None:
                connection.sendall(request(self.large, f"Authorization: {self.ann}").encode())
                looked.wait(20)
                with contextlib.suppress(OSError):
                    read_all(connection)

            running = self.client(work)
            yield until(lambda: any(channel.busy for channel in self.factory._channels))
            end()
            looked.set()
            yield running
            yield until(lambda: not self.factory.connections)
            self.there.clock.advance(0)
            self.assertEqual((len(self.lines), self.begun), (1, 0), how)
            self.assert_incomplete(how)
            self.events.found.clear()

    def assert_incomplete(self, how: str) -> None:
        """The last response was cut off, and ended by that."""
        line = self.lines[-1]
        self.assertEqual((line.status, line.length, line.end.how), (200, LARGEST, how))
        ((level, phrase, fields),) = self.events.found
        self.assertEqual((level, phrase), ("info" if how == "client" else "warn", "response incomplete"))
        self.assertEqual((fields["digest"], fields["repository"]), (str(self.digest_of_large), REPOSITORY))
        self.assertEqual((fields["offset"], fields["reason"]), (line.sent, line.end.reason))
        self.assertEqual(incomplete(self.there.meter)[how], 1)


class NarrowTlsTests(NarrowTests):
    """The same over TLS."""

    tls = True


def _open_blobs(root: Path) -> list[str]:
    """The blobs of a store that this process has open: other tests have theirs."""
    found: list[str] = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{number}"))
    return [path for path in found if path.startswith(f"{root.resolve()}/") and path.endswith("/data")]
