"""Tests for :mod:`contentcache.wire.sendfile_pool` over real sockets, plain and with TLS 1.2 and 1.3."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import CancelledError, Deferred, inlineCallbacks
from twisted.internet.error import ConnectionAborted, ConnectionLost
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from contentcache.config.model import ServerTLS
from contentcache.tls.server import ServerContext
from contentcache.wire import sendfile as sendfile_module
from contentcache.wire import sendfile_pool as pool_module
from contentcache.wire.sendfile import FileTransport, has_unsent
from contentcache.wire.sendfile_pool import PooledTLSTransfer, PooledTransfer, SendfilePool
from contentcache.wire.tls_socket import tls_transport
from tests.tls.certificates import make
from tests.waiting import until
from tests.wire.test_sendfile_pool import opened

reactor: Any = global_reactor
T = TypeVar("T")
_MIB = 1 << 20
#: Bytes that a kernel keeps of what is sent to a client that takes nothing: far fewer than there are.
_BUFFER = 256 << 10
_BIG = os.urandom(6 * _MIB + 1234)
#: Seconds until a test that hangs fails; nothing waits for so long.
_LONG = 30


class _Noted(SendfilePool):
    """Records all transfers."""

    def __init__(self, most: int = 2) -> None:
        run: Any = deferToThread
        super().__init__(run, most)
        self.gone: list[PooledTransfer] = []

    async def run(self, transfer: PooledTransfer) -> None:
        self.gone.append(transfer)
        await super().run(transfer)


class _Server(Protocol):
    """Stores what it receives, and calls ``work`` with its transport as soon as there is something."""

    transport: Any

    def __init__(self, work: Callable[[_Server], Awaitable[Any]]) -> None:
        self._work: Callable[[_Server], Awaitable[Any]] | None = work
        self.received = b""
        self.done: Deferred[Any] = Deferred()
        self.lost: Deferred[object] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        work, self._work = self._work, None
        if work is not None:
            going: Any = work(self)
            Deferred.fromCoroutine(going).chainDeferred(self.done)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.callback(reason.value)


class _Hold:
    """Blocks each transfer before it has sent anything, until :meth:`release`."""

    def __init__(self, test: TestCase) -> None:
        self._there, self._released = threading.Event(), threading.Event()
        test.addCleanup(self._released.set)
        for kind in (PooledTransfer, PooledTLSTransfer):
            test.patch(kind, "_send_chunk", self._held(kind._send_chunk))

    def _held(self, send_chunk: Callable[..., int]) -> Callable[..., int]:
        def held(*args: Any) -> int:
            self._there.set()
            self._released.wait(_LONG)
            return send_chunk(*args)

        return held

    def reached(self) -> Deferred[bool]:
        """Fires when a transfer is blocked."""
        return deferToThread(self._there.wait, _LONG)

    def release(self) -> None:
        """Unblock it."""
        self._released.set()


class PlainTests(TestCase):
    """Over TCP."""

    timeout = _LONG
    version: ssl.TLSVersion | None = None

    def setUp(self) -> None:
        # How fast this machine happens to be is nothing to test.
        self.patch(sendfile_module, "FAST_RATE", 0)
        self.patch(pool_module, "_MAX_SECONDS", _LONG)
        self.patch(pool_module, "_WRITE_TIMEOUT", _LONG * 1000)
        self.patch(pool_module, "_MAX_CHUNK", _MIB)
        self.path = self.mktemp()
        Path(self.path).write_bytes(_BIG)
        self.file = os.open(self.path, os.O_RDONLY)
        self.addCleanup(self._is_put_away)
        self.servers: list[_Server] = []
        self.pool = _Noted()
        self.listen(self.pool)

    def listen(self, pool: SendfilePool | None, *, narrow: bool = False) -> None:
        """Serve at a new port; ``narrow`` connections have small buffers."""
        self.narrow = narrow
        factory = Factory()
        factory.noisy = False
        factory.buildProtocol = self._build  # type: ignore[method-assign, assignment]
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        transport: Any = FileTransport
        if self.version is not None:
            certificate, key = make("cache", hosts=("127.0.0.1",)).write(self.mktemp(), "cache")
            transport = tls_transport(ServerContext(ServerTLS(certificate, key)))
        transport = transport.with_pool(pool)
        port.transport = _narrow(transport) if narrow else transport
        self.number = port.getHost().port
        self.work: Callable[[_Server], Awaitable[Any]] = self.send_and_end
        self.addCleanup(port.stopListening)

    def _build(self, _address: object) -> _Server:
        server = _Server(self.work)
        self.servers.append(server)
        return server

    @inlineCallbacks
    def _is_put_away(self) -> Generator[Deferred[Any], Any, None]:
        for server in self.servers:
            yield server.lost
        os.close(self.file)
        yield until(lambda: not opened(self.path))

    # Clients.

    def client(self, work: Callable[[socket.socket], T]) -> Deferred[T]:
        """Run a client in a thread; an end without ``close_notify`` raises."""

        def run() -> T:
            with socket.socket() as plain:
                if self.narrow:
                    # Before it connects: the window is agreed upon then.
                    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
                plain.settimeout(_LONG)
                plain.connect(("127.0.0.1", self.number))
                if self.version is None:
                    plain.sendall(b"hello")
                    return work(plain)
                context = ssl.create_default_context()
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
                context.minimum_version = context.maximum_version = self.version
                with context.wrap_socket(plain, suppress_ragged_eofs=False) as secure:
                    secure.sendall(b"hello")
                    return work(secure)

        return deferToThread(run)

    # Servers.

    async def send_next(self, server: _Server, start: int) -> int:
        """Send one piece, as a body does."""
        transport = server.transport
        if transport.may_use_pool():
            sent: int = await transport.send_by_pool(self.file, start, len(_BIG))
            if sent:
                return sent
        return int(await transport.send_file(self.file, start, min(start + _MIB, len(_BIG))))

    async def send(self, server: _Server) -> None:
        """Send all."""
        start = 0
        while start < len(_BIG):
            start += await self.send_next(server, start)

    async def send_and_end(self, server: _Server) -> None:
        """Send all, and nothing after it."""
        await self.send(server)
        server.transport.loseConnection()

    async def begin(self, server: _Server) -> None:
        """Send the first MiB."""
        await server.transport.send_file(self.file, 0, _MIB)
        self.assertTrue(server.transport.may_use_pool())

    def by_pool(self, server: _Server) -> Deferred[int]:
        """Send the second MiB."""
        sending: Deferred[int] = server.transport.send_by_pool(self.file, _MIB, 2 * _MIB)
        return sending

    async def begin_and_wait(self, server: _Server) -> int:
        """Send both; returns how much of the second was sent."""
        await self.begin(server)
        return await self.by_pool(server)

    # What is to be so.

    @inlineCallbacks
    def test_whole(self) -> Generator[Deferred[Any], Any, None]:
        """All bytes arrive, by one transfer after the other."""
        for kind in (PooledTransfer, PooledTLSTransfer):
            self.patch(kind, "_send_chunk", _leaves_after(kind._send_chunk))
        got = yield self.client(read_all)
        self.assertTrue(got == _BIG)
        self.assertGreater(len(self.pool.gone), 3)
        self.assertTrue(self.pool.has_free_thread)

    @inlineCallbacks
    def test_written_meanwhile(self) -> Generator[Deferred[Any], Any, None]:
        """What is written meanwhile is sent after it, also by ``write_now``; the file may be closed by then."""
        hold = _Hold(self)

        async def work(server: _Server) -> None:
            await self.begin(server)
            sending = self.by_pool(server)
            server.transport.write(b"after")
            server.transport.write_now(b" that")
            self.assertIsNone(server.transport.send_now(b"", self.file, 0, 1))
            os.dup2(other.fileno(), self.file)  # its number is somebody else's
            self.assertEqual((await sending, server.transport.may_use_pool()), (_MIB, False))
            server.transport.loseConnection()

        self.work = work
        with open(self.mktemp(), "w+b") as other:
            reading = self.client(read_all)
            yield hold.reached()
            self.assertTrue(has_unsent(self.servers[0].transport))
            hold.release()
            got = yield reading
        self.assertTrue(got == _BIG[: 2 * _MIB] + b"after that")
        yield self.servers[0].done

    @inlineCallbacks
    def test_ended_meanwhile(self) -> Generator[Deferred[Any], Any, None]:
        """A connection that is closed meanwhile is closed after it."""
        hold = _Hold(self)
        self.work = self.begin_and_wait
        reading = self.client(read_all)
        yield hold.reached()
        (server,) = self.servers
        server.transport.loseConnection()
        hold.release()
        got = yield reading
        self.assertTrue(got == _BIG[: 2 * _MIB])
        self.assertEqual((yield server.done), _MIB)

    @inlineCallbacks
    def test_aborted(self) -> Generator[Deferred[Any], Any, None]:
        """
        An end that is at once is so for everybody but the thread: the socket's number is nobody else's until
        it has left. The client does not wait for that.
        """
        hold = _Hold(self)
        self.work = self.begin_and_wait
        reading = self.client(_read_whatever_happens)
        yield hold.reached()
        (server,) = self.servers
        number = server.transport.fileno()
        mine = os.fstat(number)
        server.transport.abortConnection()
        self.assertIsInstance((yield server.lost), ConnectionAborted)
        got = yield reading
        self.assertTrue(_BIG.startswith(got))
        self.assertTrue(os.path.samestat(os.fstat(number), mine))
        self.assertTrue(self.pool.gone[0].is_cancelled)
        self.assertFalse(server.done.called)
        hold.release()
        yield self.assertFailure(server.done, ConnectionLost)
        self.assertFalse(_is_open(number, mine))
        self.assertTrue(self.pool.has_free_thread)

    @inlineCallbacks
    def test_client_leaves(self) -> Generator[Deferred[Any], Any, None]:
        """A client that disconnects meanwhile leaves no file or socket open."""
        hold = _Hold(self)
        self.work = self.send
        leaves = threading.Event()

        def work(connection: socket.socket) -> None:
            _read(connection, _MIB)
            leaves.wait(_LONG)

        leaving = self.client(work)
        yield hold.reached()
        (server,) = self.servers
        number = server.transport.fileno()
        mine = os.fstat(number)
        leaves.set()
        yield leaving
        if self.version is None:  # else nobody reads
            yield server.lost
            self.assertTrue(os.path.samestat(os.fstat(number), mine))
        hold.release()
        yield self.assertFailure(server.done, ConnectionLost)
        yield server.lost
        yield until(lambda: not _is_open(number, mine))
        self.assertTrue(self.pool.has_free_thread)

    @inlineCallbacks
    def test_given_up(self) -> Generator[Deferred[Any], Any, None]:
        """A cancelled transfer ends soon, and what is written then is sent after what was sent."""
        hold = _Hold(self)

        async def work(server: _Server) -> None:
            await self.begin(server)
            sending = server.transport.send_by_pool(self.file, _MIB, len(_BIG))
            await hold.reached()
            sending.cancel()
            with contextlib.suppress(CancelledError):
                await sending
            server.transport.write(b"end")
            server.transport.loseConnection()
            hold.release()

        self.work = work
        got = yield self.client(read_all)
        (transfer,) = self.pool.gone
        self.assertTrue(got == _BIG[: _MIB + transfer.sent] + b"end")
        self.assertLess(transfer.sent, len(_BIG) - _MIB)
        yield self.servers[0].done

    @inlineCallbacks
    def test_reads(self) -> Generator[Deferred[Any], Any, None]:
        """What the client sends meanwhile is read: at once, with TLS afterwards."""
        hold = _Hold(self)
        sends = threading.Event()

        def work(connection: socket.socket) -> bytes:
            first = _read(connection, _MIB)
            sends.wait(_LONG)
            connection.sendall(b" world")
            return first + read_all(connection)

        self.work = self.begin_and_wait
        reading = self.client(work)
        yield hold.reached()
        (server,) = self.servers
        sends.set()
        if self.version is None:
            yield until(lambda: server.received == b"hello world")
        else:
            yield until(lambda: server.transport not in reactor.getReaders())
            server.transport.pauseProducing()
            server.transport.resumeProducing()
            self.assertEqual(server.received, b"hello")
        hold.release()
        yield until(lambda: server.received == b"hello world")
        yield server.done
        server.transport.loseConnection()
        yield reading

    @inlineCallbacks
    def test_asks_for_two(self) -> Generator[Deferred[Any], Any, None]:
        """A transfer that starts while the protocol reads: with TLS no more is read before it ends."""
        hold = _Hold(self)
        asked = threading.Event()

        def ask(connection: socket.socket) -> bytes:
            first = connection.recv(1)
            connection.sendall(b"1")
            connection.sendall(b"2")
            asked.set()
            return first + read_all(connection)

        async def work(server: _Server) -> None:
            server.transport.pauseProducing()
            await server.transport.send_file(self.file, 0, _MIB)
            await until(asked.is_set)
            server._work = self.transfer_and_end
            server.done = Deferred()
            server.transport.resumeProducing()

        self.work = work
        reading = self.client(ask)
        yield hold.reached()
        (server,) = self.servers
        if self.version is not None:
            self.assertEqual(server.received, b"hello1")
        hold.release()
        yield until(lambda: server.received == b"hello12")
        got = yield reading
        self.assertTrue(got == _BIG[: 2 * _MIB])

    async def transfer_and_end(self, server: _Server) -> None:
        """Send a MiB by a transfer, and close once all was received."""
        await self.by_pool(server)
        await until(lambda: server.received == b"hello12")
        server.transport.loseConnection()

    @inlineCallbacks
    def test_stops(self) -> Generator[Deferred[Any], Any, None]:
        """A client that reads nothing for a while ends its transfer, and gets the rest from the reactor."""
        self.patch(pool_module, "_WRITE_TIMEOUT", 0)
        self.listen(self.pool, narrow=True)
        goes_on = threading.Event()
        got = self.client(_stopping(goes_on))
        yield until(lambda: self.pool.gone and not self.pool.gone[-1].is_fast)
        yield until(lambda: self.servers[0].transport._piece is not None)
        goes_on.set()
        self.assertTrue((yield got) == _BIG)
        yield self.servers[0].done

    @inlineCallbacks
    def test_stops_while_the_disk_is_slow(self) -> Generator[Deferred[Any], Any, None]:
        """The same where the reactor continues late: what a transfer has started to write is not sent twice."""
        self.patch(pool_module, "_WRITE_TIMEOUT", 0)
        self.listen(self.pool, narrow=True)
        goes_on = threading.Event()

        async def work(server: _Server) -> None:
            start = 0
            while start < len(_BIG):
                before = len(self.pool.gone)
                start += await self.send_next(server, start)
                if len(self.pool.gone) > before and not self.pool.gone[-1].is_fast:
                    owed.append(
                        (has_unsent(server.transport), bool(getattr(self.pool.gone[-1], "pending", b"")))
                    )
                    goes_on.set()
                    # As a disk may take its time: all that can go out does.
                    await until(lambda: server.transport not in reactor.getWriters())
            server.transport.loseConnection()

        self.work = work
        owed: list[tuple[bool, bool]] = []
        got = yield self.client(_stopping(goes_on))
        self.assertEqual(len(got), len(_BIG))
        for is_owed, is_begun in owed:
            self.assertEqual(is_owed, is_begun)
        self.assertTrue(got == _BIG)
        yield self.servers[0].done

    @inlineCallbacks
    def test_none_free(self) -> Generator[Deferred[Any], Any, None]:
        """Without a free thread the reactor sends."""
        self.pool = _Noted(1)
        self.listen(self.pool)
        hold = _Hold(self)
        first = self.client(read_all)
        yield hold.reached()
        got = yield self.client(read_all)
        self.assertTrue(got == _BIG)
        self.assertEqual(len(self.pool.gone), 1)
        hold.release()
        got = yield first
        self.assertTrue(got == _BIG)

    @inlineCallbacks
    def test_slow(self) -> Generator[Deferred[Any], Any, None]:
        """A slow client has no transfer, and without a pool nobody has."""
        self.patch(sendfile_module, "FAST_RATE", 1e18)
        self.assertTrue((yield self.client(read_all)) == _BIG)
        self.assertEqual(self.pool.gone, [])
        self.patch(sendfile_module, "FAST_RATE", 0)
        self.listen(None)
        self.assertTrue((yield self.client(read_all)) == _BIG)

    @inlineCallbacks
    def test_no_descriptor(self) -> Generator[Deferred[Any], Any, None]:
        """Without a free descriptor the reactor sends."""
        tried: list[int] = []

        def fail(number: int) -> int:
            tried.append(number)
            raise OSError(errno.EMFILE, "Too many open files")

        self.patch(os, "dup", fail)
        self.assertTrue((yield self.client(read_all)) == _BIG)
        self.assertEqual((self.pool.gone, set(tried)), ([], {self.file}))
        self.assertTrue(self.pool.has_free_thread)

    @inlineCallbacks
    def test_no_thread(self) -> Generator[Deferred[Any], Any, None]:
        """Where no thread can be started the reactor sends."""

        no_thread: Any = _no_thread
        self.pool._run_in_thread = no_thread
        self.assertTrue((yield self.client(read_all)) == _BIG)
        self.assertTrue(self.pool.has_free_thread)
        self.assertNotEqual(self.flushLoggedErrors(RuntimeError), [])


class Tls13Tests(PlainTests):
    """With TLS 1.3."""

    version = ssl.TLSVersion.TLSv1_3


class Tls12Tests(PlainTests):
    """With TLS 1.2."""

    version = ssl.TLSVersion.TLSv1_2


def _narrow(transport: Any) -> Any:
    class Narrow(transport):  # type: ignore[misc]
        """Has small buffers."""

        def __init__(self, sock: socket.socket, *args: Any) -> None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
            super().__init__(sock, *args)

    return Narrow


def _no_thread(_work: Callable[..., T], *_args: object, **_more: object) -> Deferred[T]:
    raise RuntimeError("can't start new thread")


def read_all(connection: socket.socket) -> bytes:
    """All bytes until the end; a reset raises."""
    got = bytearray()
    while data := connection.recv(1 << 18):
        got += data
    return bytes(got)


def _read(connection: socket.socket, most: int) -> bytes:
    got = bytearray()
    while len(got) < most and (data := connection.recv(min(most - len(got), 1 << 18))):
        got += data
    return bytes(got)


def _read_whatever_happens(connection: socket.socket) -> bytes:
    got = bytearray()
    with contextlib.suppress(OSError):
        while data := connection.recv(1 << 18):
            got += data
    return bytes(got)


def _stopping(goes_on: threading.Event) -> Callable[[socket.socket], bytes]:
    """A client that reads a little more than one piece, then nothing until it ``goes_on``."""

    def work(connection: socket.socket) -> bytes:
        first = _read(connection, _MIB + 100_000)
        goes_on.wait(_LONG)
        return first + read_all(connection)

    return work


def _leaves_after(send_chunk: Callable[..., int]) -> Callable[..., int]:
    def leaving(transfer: PooledTransfer, *args: Any) -> int:
        count = send_chunk(transfer, *args)
        transfer.is_cancelled = True
        return count

    return leaving


def _is_open(number: int, mine: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.fstat(number), mine)
    except OSError:
        return False
