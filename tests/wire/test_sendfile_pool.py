"""Tests for :mod:`contentcache.wire.sendfile_pool`: one transfer in the test's own thread, and the pool."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from contentcache.aio.threads import at_once
from contentcache.wire import sendfile_pool as pool_module
from contentcache.wire.sendfile_pool import PooledTLSTransfer, PooledTransfer, SendfilePool

_CONTENT = os.urandom(40_000)


def opened(path: str) -> int:
    """How often this process has a file open."""
    return len(_numbers(path))


class PooledTransferTests(SynchronousTestCase):
    """Whatever happens in a transfer, it counts the sent bytes, and closes the file."""

    def setUp(self) -> None:
        self.path = self.mktemp()
        Path(self.path).write_bytes(_CONTENT)
        out, self.client = socket.socketpair()
        out.setblocking(False)
        self.addCleanup(self.client.close)
        self.addCleanup(out.close)
        self.out = out
        self.got = b""

    def take(self) -> None:
        """Let the client receive all that was sent."""
        with contextlib.suppress(BlockingIOError):
            while data := self.client.recv(1 << 20, socket.MSG_DONTWAIT):
                self.got += data

    def transfer(self, start: int = 0, stop: int = len(_CONTENT)) -> PooledTransfer:
        """A transfer whose file nobody else has open."""
        with open(self.path, "rb") as file:
            return PooledTransfer(self.out.fileno(), file.fileno(), start, stop)

    def run_transfer(self, transfer: PooledTransfer) -> bytes:
        """Run a transfer; returns what the client received."""
        self.assertEqual(opened(self.path), 1)
        transfer.run()
        self.assertEqual(opened(self.path), 0)
        self.take()
        self.assertEqual(len(self.got), transfer.sent)
        return self.got

    def test_all(self) -> None:
        """A transfer sends its bytes, and no others."""
        transfer = self.transfer(100, len(_CONTENT) - 100)
        self.assertEqual(self.run_transfer(transfer), _CONTENT[100:-100])
        self.assertTrue(transfer.is_fast)

    def test_full(self) -> None:
        """A client that receives nothing more before the timeout is not fast."""
        self.patch(pool_module, "_WRITE_TIMEOUT", 0)
        self.patch(pool_module, "_MAX_CHUNK", 1000)
        self.out.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        transfer = self.transfer()
        got = self.run_transfer(transfer)
        self.assertEqual(got, _CONTENT[: len(got)])
        self.assertTrue(0 < len(got) < len(_CONTENT))
        self.assertFalse(transfer.is_fast)

    def test_waits(self) -> None:
        """The thread waits for a client that soon receives more."""
        waited: list[int] = []

        class Waiting:
            def register(self, *_: object) -> None:
                pass

            def poll(other, milliseconds: int) -> list[int]:  # noqa: N805
                waited.append(milliseconds)
                self.take()
                return [1]

        self.patch(pool_module, "_MAX_CHUNK", 1000)
        self.patch(pool_module, "select", SimpleNamespace(poll=Waiting, POLLOUT=4))
        self.out.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        transfer = self.transfer()
        transfer.run()
        self.take()
        self.assertEqual(self.got, _CONTENT)
        self.assertEqual(set(waited), {50})
        self.assertTrue(transfer.is_fast)

    def test_left(self) -> None:
        """Nothing is sent after a transfer is cancelled."""
        transfer = self.transfer()
        transfer.is_cancelled = True
        self.assertEqual(self.run_transfer(transfer), b"")

    def test_left_between(self) -> None:
        """The same after some of it."""
        self.patch(pool_module, "_MAX_CHUNK", 1000)
        self.after_each_chunk(lambda transfer: setattr(transfer, "is_cancelled", True))
        self.assertEqual(self.run_transfer(self.transfer()), _CONTENT[:1000])

    def test_peer_gone(self) -> None:
        """A broken connection ends the transfer: the reactor handles the error."""
        transfer = self.transfer()
        self.client.close()
        transfer.run()
        self.assertEqual((transfer.sent, transfer.is_fast, opened(self.path)), (0, False, 0))

    def test_disk_broken(self) -> None:
        """So does a disk error: what was sent before counts."""

        def fail(transfer: PooledTransfer) -> None:
            self.patch(os, "sendfile", _failing(errno.EIO))

        self.patch(pool_module, "_MAX_CHUNK", 1000)
        self.after_each_chunk(fail)
        transfer = self.transfer()
        self.assertEqual(self.run_transfer(transfer), _CONTENT[:1000])
        self.assertFalse(transfer.is_fast)

    def test_short(self) -> None:
        """A file that is shorter than it was ends the transfer."""
        transfer = self.transfer(0, len(_CONTENT) + 1)
        self.assertEqual(self.run_transfer(transfer), _CONTENT)

    def test_time_over(self) -> None:
        """A transfer ends after a time; a client that received little until then, if steadily, is not fast."""
        for at_once_bytes, is_fast in ((1000, False), (20_000, True)):
            with self.subTest(is_fast=is_fast):
                self.setUp()
                self.patch(pool_module, "_MAX_CHUNK", at_once_bytes)
                self.patch(pool_module, "FAST_RATE", 40_000)
                moments = iter((0.0, 0.1, 0.5))
                self.patch(pool_module, "time", SimpleNamespace(monotonic=lambda: next(moments)))  # noqa: B023
                transfer = self.transfer()
                got = self.run_transfer(transfer)
                self.patch(pool_module, "time", time)
                self.assertEqual((len(got), transfer.is_fast), (at_once_bytes, is_fast))

    def test_stays_here(self) -> None:
        """Programs that are started meanwhile do not inherit its descriptor."""
        transfer = self.transfer()
        (number,) = _numbers(self.path)
        self.assertFalse(os.get_inheritable(number))
        transfer.close()
        transfer.close()
        self.assertEqual(opened(self.path), 0)

    def test_tls_wants_to_read(self) -> None:
        """Where OpenSSL must read before it writes, the transfer ends, with the bytes to write again."""

        class WantsToRead:
            def send(self, data: memoryview) -> int:
                raise SSL.WantReadError

        with open(self.path, "rb") as file:
            transfer = PooledTLSTransfer(WantsToRead(), self.out.fileno(), file.fileno(), 0, len(_CONTENT))
        transfer.run()
        self.assertEqual((transfer.sent, bytes(transfer.pending), transfer.is_cancelled), (0, _CONTENT, True))
        self.assertEqual(opened(self.path), 0)

    def after_each_chunk(self, then: Callable[[PooledTransfer], object]) -> None:
        """Do something whenever a transfer has sent some."""
        send_chunk = PooledTransfer._send_chunk

        def counted(transfer: PooledTransfer, *args: Any) -> int:
            count = send_chunk(transfer, *args)
            then(transfer)
            return count

        self.patch(PooledTransfer, "_send_chunk", counted)


class SendfilePoolTests(SynchronousTestCase):
    """The pool runs as many transfers as it has threads."""

    def setUp(self) -> None:
        self.path = self.mktemp()
        Path(self.path).write_bytes(b"")
        self.out = socket.socket()
        self.addCleanup(self.out.close)

    def transfer(self) -> PooledTransfer:
        """A transfer that has nothing to send."""
        with open(self.path, "rb") as file:
            return PooledTransfer(self.out.fileno(), file.fileno(), 0, 0)

    def test_room(self) -> None:
        """A thread is free again when its transfer has ended."""
        working: list[Deferred[Any]] = []

        def run(work: Callable[[], None]) -> Deferred[Any]:
            working.append(Deferred().addCallback(lambda _: work()))
            return working[-1]

        mine: Any = run
        pool = SendfilePool(mine, 2)
        going = []
        for is_free in (True, False):
            self.assertTrue(pool.has_free_thread)
            going.append(Deferred.fromCoroutine(pool.run(self.transfer())))
            self.assertEqual(pool.has_free_thread, is_free)
        for work in working:
            work.callback(None)
            self.assertTrue(pool.has_free_thread)
        for each in going:
            self.assertIsNone(self.successResultOf(each))

    def test_error(self) -> None:
        """Also where no thread can be started; the file is closed then, too."""

        run: Any = _failing(errno.EAGAIN)
        pool = SendfilePool(run, 1)
        for _ in range(2):
            self.failureResultOf(Deferred.fromCoroutine(pool.run(self.transfer())), OSError)
            self.assertTrue(pool.has_free_thread)
        self.assertEqual(opened(self.path), 0)

    def test_at_once(self) -> None:
        """A transfer may end before it is awaited."""
        pool = SendfilePool(at_once, 1)
        self.successResultOf(Deferred.fromCoroutine(pool.run(self.transfer())))
        self.assertTrue(pool.has_free_thread)


def _numbers(path: str) -> list[int]:
    wanted, found = os.stat(path), []
    for number in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):  # of the folder itself, for instance
            if os.path.samestat(os.fstat(number), wanted):
                found.append(number)
    return found


def _failing(number: int) -> Callable[..., Any]:
    def fail(*_: object) -> Any:
        raise OSError(number, os.strerror(number))

    return fail
