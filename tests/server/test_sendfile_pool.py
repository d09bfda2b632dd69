"""Tests for large answers of which a thread sends the most; see :mod:`contentcache.wire.sendfile_pool`."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

from attrs import frozen
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.threads import deferToThread

from contentcache.aio.threads import at_once
from contentcache.delivery.bodies import StoredBody
from contentcache.wire import sendfile as sendfile_module
from contentcache.wire import sendfile_pool as pool_module
from contentcache.wire.sendfile import FileTransport
from contentcache.wire.sendfile_pool import PooledTransfer, SendfilePool
from tests.registry.harness import BLOB, Reply, replies, request
from tests.server import test_channel_sockets as sockets
from tests.waiting import until

reactor: Any = global_reactor
_LONG = 30
_CONTENT = os.urandom(6_000_000)
_SIZE = len(_CONTENT)
#: What goes out before anybody knows how quick the client is.
_PIECE = 1 << 20


@frozen
class _File:
    """An open file whose pages are in memory, whatever it says of them."""

    descriptor: int
    size: int = len(_CONTENT)
    in_memory: bool = True

    def is_loaded(self, _offset: int, _length: int) -> bool:
        """Whether they are."""
        return self.in_memory

    def load(self, _offset: int, _length: int) -> None:
        """They have been all the time."""

    def close(self) -> None:
        """The test does that."""


class _Noted(SendfilePool):
    """Remembers who went."""

    def __init__(self) -> None:
        run: Any = deferToThread
        super().__init__(run, 2)
        self.gone: list[PooledTransfer] = []

    async def run(self, transfer: PooledTransfer) -> None:
        self.gone.append(transfer)
        await super().run(transfer)


class ByPooledTransferTests(sockets.SocketTestCase):
    """Whole answers, parts, and who leaves."""

    fast = True
    timeout = _LONG

    def setUp(self) -> None:
        self.pool = _Noted()
        self.patch(sockets, "FileTransport", FileTransport.with_pool(self.pool))
        super().setUp()
        # How fast this machine happens to be is nothing to test.
        self.patch(sendfile_module, "FAST_RATE", 0)
        self.patch(pool_module, "_MAX_SECONDS", _LONG)
        self.patch(pool_module, "_WRITE_TIMEOUT", _LONG * 1000)
        path = self.mktemp()
        Path(path).write_bytes(_CONTENT)
        descriptor = os.open(path, os.O_RDONLY)
        self.addCleanup(os.close, descriptor)
        self.file = _File(descriptor)
        self.send(self.file)

    def send(self, file: Any) -> None:
        """Have this file be what is sent."""
        self.services.content = StoredBody(file, at_once, lambda: None)

    def asks(self, *fields: str) -> Deferred[Reply]:
        """One request, answered to its end."""

        def work(connection: socket.socket) -> Reply:
            connection.sendall(request(BLOB, "Connection: close", *fields).encode())
            (reply,) = replies(_read(connection, 1 << 30))
            return reply

        return self.client(work)

    def lines_of(self, *sent: int) -> Deferred[None]:
        """Wait for the log's lines; these bytes are in them."""
        logged = until(lambda: self.lines)
        return logged.addCallback(lambda _: self.assertEqual([line.sent for line in self.lines], [*sent]))

    @inlineCallbacks
    def test_whole(self) -> Generator[Deferred[Any], Any, None]:
        """A large body is sent by a thread after its first piece, and the access log counts all of it."""
        reply = yield self.asks()
        self.assertTrue(reply.body == _CONTENT)
        self.assertEqual([transfer.sent for transfer in self.pool.gone], [_SIZE - _PIECE])
        yield self.lines_of(_SIZE)

    @inlineCallbacks
    def test_part(self) -> Generator[Deferred[Any], Any, None]:
        """So does a large part."""
        reply = yield self.asks("Range: bytes=700000-5999000")
        self.assertEqual(reply.status, 206)
        self.assertTrue(reply.body == _CONTENT[700_000:5_999_001])
        self.assertEqual([transfer.sent for transfer in self.pool.gone], [5_299_001 - _PIECE])
        yield self.lines_of(5_299_001)

    @inlineCallbacks
    def test_several_parts(self) -> Generator[Deferred[Any], Any, None]:
        """Parts in one answer are in their places."""
        reply = yield self.asks("Range: bytes=0-5242879,5500000-5500009")
        begin, middle = reply.body.index(_CONTENT[:100]), reply.body.index(_CONTENT[5_500_000:5_500_010])
        self.assertTrue(reply.body[begin : begin + 5_242_880] == _CONTENT[:5_242_880])
        self.assertGreater(middle, begin + 5_242_880)
        self.assertEqual((len(self.pool.gone), reply.whole), (1, True))
        yield self.lines_of(len(reply.body))

    @inlineCallbacks
    def test_small(self) -> Generator[Deferred[Any], Any, None]:
        """What is less than that is not worth a thread."""
        reply = yield self.asks("Range: bytes=0-4000000")
        self.assertTrue(reply.body == _CONTENT[:4_000_001])
        self.assertEqual(self.pool.gone, [])
        yield self.lines_of(4_000_001)

    @inlineCallbacks
    def test_on_disk(self) -> Generator[Deferred[Any], Any, None]:
        """Nor is what the disk must be waited for."""
        self.send(_File(self.file.descriptor, in_memory=False))
        reply = yield self.asks()
        self.assertTrue(reply.body == _CONTENT)
        self.assertEqual(self.pool.gone, [])
        yield self.lines_of(_SIZE)

    @inlineCallbacks
    def test_leaves(self) -> Generator[Deferred[Any], Any, None]:
        """Where a client disconnects during a transfer the access log counts what was sent."""
        there, released = threading.Event(), threading.Event()
        self.addCleanup(released.set)
        send_chunk = PooledTransfer._send_chunk

        def held(*args: Any) -> int:
            if self.pool.gone[0].sent:
                there.set()
                released.wait(_LONG)
            return send_chunk(*args)

        self.patch(PooledTransfer, "_send_chunk", held)

        def work(connection: socket.socket) -> None:
            connection.sendall(request(BLOB).encode())
            _read(connection, _PIECE)
            there.wait(_LONG)

        yield self.client(work)
        yield until(lambda: self.lines)
        (transfer,) = self.pool.gone
        self.assertGreater(transfer.sent, 0)
        yield self.lines_of(_PIECE + transfer.sent)
        self.assertTrue(transfer.is_cancelled)
        released.set()
        yield until(lambda: not self.factory.connections)


def _read(connection: socket.socket, most: int) -> bytes:
    got = bytearray()
    while len(got) < most and (data := connection.recv(1 << 18)):
        got += data
    return bytes(got)
