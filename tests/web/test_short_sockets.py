"""
Tests for :mod:`contentcache.web.short` over sockets that take little at once.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Generator
from typing import Any, TypeVar

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from contentcache.delivery.warm import LARGEST
from contentcache.wire.sendfile import FileTransport
from tests.delivery.house import REPOSITORY
from tests.web.house import replies, request
from tests.web.test_channel_sockets import read_all
from tests.web.test_short import CacheTestCase

reactor: Any = global_reactor
T = TypeVar("T")


class _Narrow(FileTransport):
    """
    A connection whose machine buffers little.
    """

    def __init__(self, sock: socket.socket, *args: Any) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        super().__init__(sock, *args)


class NarrowTests(CacheTestCase, TestCase):
    """
    What the socket does not take at once goes out as the client takes it.
    """

    fast = True

    def setUp(self) -> None:
        super().setUp()
        self.content = os.urandom(LARGEST)
        self.large = f"/v2/{REPOSITORY}/blobs/{self.there.origin.put_blob(REPOSITORY, self.content)}"
        for _ in range(2):
            self.assertEqual(self.ask(self.ann, path=self.large).body, self.content)
        self.forget()
        port = reactor.listenTCP(0, self.factory, interface="127.0.0.1")
        port.transport = _Narrow
        self.number = port.getHost().port
        self.addCleanup(self._stop, port)

    @inlineCallbacks
    def _stop(self, port: Any) -> Generator[Deferred[Any], Any, None]:
        yield port.stopListening()
        self.factory.cut()
        yield self.until(lambda: not self.factory.connections)

    def client(self, work: Callable[[socket.socket], T]) -> Deferred[T]:
        """
        Run a client in a thread.
        """

        def run() -> T:
            with socket.create_connection(("127.0.0.1", self.number), 20) as connection:
                return work(connection)

        return deferToThread(run)

    @inlineCallbacks
    def until(self, condition: Callable[[], object]) -> Generator[Deferred[Any], Any, None]:
        """
        Let the reactor go on until something is so.
        """
        while not condition():
            waiting: Deferred[None] = Deferred()
            reactor.callLater(0.005, waiting.callback, None)
            yield waiting

    @inlineCallbacks
    def test_rest(self) -> Generator[Deferred[Any], Any, None]:
        """
        A blob arrives as it is, and what is asked for behind it in its turn.
        """
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

        def work(connection: socket.socket) -> None:
            connection.sendall(request(self.large, f"Authorization: {self.ann}").encode())
            connection.recv(100)
            seen.append(self.factory.busy)

        seen: list[int] = []
        yield self.client(work)
        yield self.until(lambda: self.lines)
        self.assertEqual(seen, [1])
        (line,) = self.lines
        self.assertLess(line.sent, LARGEST)
        yield self.until(lambda: not self.factory.connections)
        yield self.until(lambda: len(_open_files("/data")) == len(self.there.contents.warm))
        self.assertEqual(self.flushLoggedErrors(), [])


def _open_files(end: str) -> list[str]:
    found = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{number}"))
    return [path for path in found if path.endswith(end)]
