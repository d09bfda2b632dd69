"""Tests for :mod:`contentcache.wire.lanes`: one lane, in the test's own thread, and how many there are."""

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
from contentcache.wire import lanes as lanes_module
from contentcache.wire.lanes import Lane, Lanes, TLSLane

_CONTENT = os.urandom(40_000)


def opened(path: str) -> int:
    """How often this process has a file open."""
    return len(_numbers(path))


class LaneTests(SynchronousTestCase):
    """Whatever happens in a lane, it says how many bytes went out, and gives the file back."""

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
        """The client takes what there is, until there is no more."""
        with contextlib.suppress(BlockingIOError):
            while data := self.client.recv(1 << 20, socket.MSG_DONTWAIT):
                self.got += data

    def lane(self, start: int = 0, stop: int = len(_CONTENT)) -> Lane:
        """A lane whose file nobody else has open."""
        with open(self.path, "rb") as file:
            return Lane(self.out.fileno(), file.fileno(), start, stop)

    def go(self, lane: Lane) -> bytes:
        """Let it go; answers what the client has got."""
        self.assertEqual(opened(self.path), 1)
        lane.go()
        self.assertEqual(opened(self.path), 0)
        self.take()
        self.assertEqual(len(self.got), lane.sent)
        return self.got

    def test_all(self) -> None:
        """The bytes that it was given, and no others."""
        lane = self.lane(100, len(_CONTENT) - 100)
        self.assertEqual(self.go(lane), _CONTENT[100:-100])
        self.assertTrue(lane.is_quick)

    def test_full(self) -> None:
        """Who takes no more, and does not soon, is not quick."""
        self.patch(lanes_module, "_PATIENCE", 0)
        self.patch(lanes_module, "_AT_ONCE", 1000)
        self.out.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        lane = self.lane()
        got = self.go(lane)
        self.assertEqual(got, _CONTENT[: len(got)])
        self.assertTrue(0 < len(got) < len(_CONTENT))
        self.assertFalse(lane.is_quick)

    def test_waits(self) -> None:
        """Who takes more before long is waited for."""
        waited: list[int] = []

        class Waiting:
            def register(self, *_: object) -> None:
                pass

            def poll(other, milliseconds: int) -> list[int]:  # noqa: N805
                waited.append(milliseconds)
                self.take()
                return [1]

        self.patch(lanes_module, "_AT_ONCE", 1000)
        self.patch(lanes_module, "select", SimpleNamespace(poll=Waiting, POLLOUT=4))
        self.out.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        lane = self.lane()
        lane.go()
        self.take()
        self.assertEqual(self.got, _CONTENT)
        self.assertEqual(set(waited), {50})
        self.assertTrue(lane.is_quick)

    def test_left(self) -> None:
        """Nothing more goes out once nobody wants it."""
        lane = self.lane()
        lane.is_left = True
        self.assertEqual(self.go(lane), b"")

    def test_left_between(self) -> None:
        """The same after some of it."""
        self.patch(lanes_module, "_AT_ONCE", 1000)
        self.after_each_push(lambda lane: setattr(lane, "is_left", True))
        self.assertEqual(self.go(self.lane()), _CONTENT[:1000])

    def test_peer_gone(self) -> None:
        """A connection that is broken is not its business: whoever sends on meets that."""
        lane = self.lane()
        self.client.close()
        lane.go()
        self.assertEqual((lane.sent, lane.is_quick, opened(self.path)), (0, False, 0))

    def test_disk_broken(self) -> None:
        """Neither is a disk: what went out before counts."""

        def fail(lane: Lane) -> None:
            self.patch(os, "sendfile", _failing(errno.EIO))

        self.patch(lanes_module, "_AT_ONCE", 1000)
        self.after_each_push(fail)
        lane = self.lane()
        self.assertEqual(self.go(lane), _CONTENT[:1000])
        self.assertFalse(lane.is_quick)

    def test_short(self) -> None:
        """A file that is shorter than it was ends the lane."""
        lane = self.lane(0, len(_CONTENT) + 1)
        self.assertEqual(self.go(lane), _CONTENT)

    def test_time_over(self) -> None:
        """After a while the lane is left; who has taken little until then, if steadily, is not quick."""
        for at_once_bytes, is_quick in ((1000, False), (20_000, True)):
            with self.subTest(is_quick=is_quick):
                self.setUp()
                self.patch(lanes_module, "_AT_ONCE", at_once_bytes)
                self.patch(lanes_module, "QUICK_RATE", 40_000)
                moments = iter((0.0, 0.1, 0.5))
                self.patch(lanes_module, "time", SimpleNamespace(monotonic=lambda: next(moments)))  # noqa: B023
                lane = self.lane()
                got = self.go(lane)
                self.patch(lanes_module, "time", time)
                self.assertEqual((len(got), lane.is_quick), (at_once_bytes, is_quick))

    def test_stays_here(self) -> None:
        """Programs that are started meanwhile get no descriptor of it."""
        lane = self.lane()
        (number,) = _numbers(self.path)
        self.assertFalse(os.get_inheritable(number))
        lane.close()
        lane.close()
        self.assertEqual(opened(self.path), 0)

    def test_tls_wants_to_read(self) -> None:
        """Where OpenSSL can write only after it has read, the lane is left, with what is to be given again."""

        class WantsToRead:
            def send(self, data: memoryview) -> int:
                raise SSL.WantReadError

        with open(self.path, "rb") as file:
            lane = TLSLane(WantsToRead(), self.out.fileno(), file.fileno(), 0, len(_CONTENT))
        lane.go()
        self.assertEqual((lane.sent, bytes(lane.pending), lane.is_left), (0, _CONTENT, True))
        self.assertEqual(opened(self.path), 0)

    def after_each_push(self, then: Callable[[Lane], object]) -> None:
        """Do something whenever a lane has sent some."""
        push = Lane._push

        def pushing(lane: Lane, *args: Any) -> int:
            count = push(lane, *args)
            then(lane)
            return count

        self.patch(Lane, "_push", pushing)


class LanesTests(SynchronousTestCase):
    """As many as there is room for."""

    def setUp(self) -> None:
        self.path = self.mktemp()
        Path(self.path).write_bytes(b"")
        self.out = socket.socket()
        self.addCleanup(self.out.close)

    def lane(self) -> Lane:
        """A lane that has nothing to send."""
        with open(self.path, "rb") as file:
            return Lane(self.out.fileno(), file.fileno(), 0, 0)

    def test_room(self) -> None:
        """One that is taken is free again at its end."""
        working: list[Deferred[Any]] = []

        def run(work: Callable[[], None]) -> Deferred[Any]:
            working.append(Deferred().addCallback(lambda _: work()))
            return working[-1]

        mine: Any = run
        lanes = Lanes(mine, 2)
        going = []
        for is_free in (True, False):
            self.assertTrue(lanes)
            going.append(Deferred.fromCoroutine(lanes.go(self.lane())))
            self.assertEqual(bool(lanes), is_free)
        for work in working:
            work.callback(None)
            self.assertTrue(lanes)
        for each in going:
            self.assertIsNone(self.successResultOf(each))

    def test_error(self) -> None:
        """Also where there is no thread to be had; the file is given back then, too."""

        run: Any = _failing(errno.EAGAIN)
        lanes = Lanes(run, 1)
        for _ in range(2):
            self.failureResultOf(Deferred.fromCoroutine(lanes.go(self.lane())), OSError)
            self.assertTrue(lanes)
        self.assertEqual(opened(self.path), 0)

    def test_at_once(self) -> None:
        """A lane that has ended before it is waited for is no different."""
        lanes = Lanes(at_once, 1)
        self.successResultOf(Deferred.fromCoroutine(lanes.go(self.lane())))
        self.assertTrue(lanes)


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
