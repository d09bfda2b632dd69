"""Tests for :mod:`contentcache.workers.worker_pool` and its workers, which are no processes here."""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Mapping
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessTerminated
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from contentcache.app.stopping import CutOff
from contentcache.core.digest import Digest
from contentcache.delivery.authorization import Revocation
from contentcache.workers import messages
from contentcache.workers.rpc import RPCConnection
from contentcache.workers.worker_pool import WorkerPool
from contentcache.workers.worker_process import CONTROL, FRONT, INDEX, LOCK
from tests.workers.harness import ConnectionEnd, Delivery, connect_in_memory

_HELLO = messages.Hello(b"", b"x", "contentcache-1", messages.Certificates())


class _Process:
    """A worker: as much of its process as the supervisor sees."""

    def __init__(self, protocol: Any, descriptors: Mapping[int, Any]) -> None:
        self.protocol = protocol
        self.descriptors = descriptors
        self.signals: list[str] = []
        self.received: list[Any] = []
        self.connection: ConnectionEnd
        self.rpc = RPCConnection(self.receive)
        self.results: dict[type, Any] = {}

    def receive(self, message: Any) -> Any:
        """What the supervisor sends."""
        self.received.append(message)
        return self.results.get(type(message))

    def signalProcess(self, name: str) -> None:
        """A signal (``IProcessTransport``)."""
        self.signals.append(name)

    def die(self) -> None:
        """End."""
        self.connection.cut()
        self.protocol.processEnded(Failure(ProcessTerminated(signal=9)))


class _Reactor(Clock):
    """Starts processes that are none."""

    def __init__(self) -> None:
        super().__init__()
        self.fault: OSError | None = None
        self.processes: list[_Process] = []
        self.delivery = Delivery()

    def spawnProcess(self, protocol: Any, _path: str, _words: Any, **more: Any) -> _Process:
        """Start a worker (``IReactorProcess``)."""
        if self.fault is not None:
            raise self.fault
        self.processes.append(_Process(protocol, more["childFDs"]))
        return self.processes[-1]

    def adoptStreamConnection(self, _descriptor: int, _family: int, factory: Any) -> None:
        """Adopt the supervisor's end (``IReactorSocket``)."""
        worker = self.processes[-1]
        worker.connection = connect_in_memory(self.delivery, factory.buildProtocol(None), worker.rpc)
        worker.connection.reactor = self


class WorkerPoolTests(SynchronousTestCase):
    """A supervisor with two workers."""

    def setUp(self) -> None:
        """Both are started, and serve."""
        self.reactor = _Reactor()
        self.other_calls: list[tuple[int, Any]] = []
        self.ends: list[socket.socket] = []
        self.failures: list[str] = []
        self.fronts = [socket.socket(), socket.socket()]
        self.addCleanup(self.close)
        self.pool = self.started()
        for worker in self.reactor.processes:
            worker.rpc.send(messages.Ready())

    def started(self) -> WorkerPool:
        """Workers that do not serve yet."""
        pool = WorkerPool(
            cast("Any", self.reactor),
            hello=lambda: _HELLO,
            receive=self.receive,
            serve_index=lambda _number, end: self.ends.append(end),
            output=None,
            lock=lambda: 99,
            environ={},
        )
        pool.start(self.fronts, self.failures.append)
        return pool

    def close(self) -> None:
        """Close what no worker has."""
        for end in (*self.fronts, *self.ends):
            end.close()

    async def receive(self, number: int, message: Any) -> Any:
        """What the pool does not answer itself."""
        self.other_calls.append((number, message))
        return "a result"

    def test_start(self) -> None:
        """
        Each has its own socket, two connections, the lock and the supervisor's output, and receives the first
        message.
        """
        for worker, front in zip(self.reactor.processes, self.fronts, strict=True):
            self.assertEqual(set(worker.descriptors), {0, 1, 2, CONTROL, INDEX, FRONT, LOCK})
            self.assertEqual((worker.descriptors[FRONT], worker.descriptors[LOCK]), (front.fileno(), 99))
            self.assertEqual((worker.descriptors[1], worker.descriptors[2]), (1, 2))
            self.assertEqual(worker.received, [_HELLO])
        self.assertEqual(self.pool.health, (2, 2))

    def test_restarts(self) -> None:
        """A worker that ends has a successor with its socket: at once, and later if it ends during its start."""
        self.reactor.processes[0].die()
        self.assertEqual(self.pool.health, (1, 2))
        self.reactor.advance(0)
        self.assertEqual(len(self.reactor.processes), 3)
        self.assertEqual(self.reactor.processes[2].descriptors[FRONT], self.fronts[0].fileno())
        self.reactor.processes[2].die()
        self.reactor.advance(0.2)
        self.assertEqual(len(self.reactor.processes), 3)
        self.reactor.advance(0.05)
        self.assertEqual(len(self.reactor.processes), 4)
        self.reactor.processes[3].rpc.send(messages.Ready())
        self.assertEqual(self.pool.health, (2, 2))

    def test_cannot_start(self) -> None:
        """Where the program cannot be started, that is said once; later it is tried again until it can."""
        self.reactor.fault = PermissionError(errno.EACCES, "Permission denied")
        pool = self.started()
        self.assertEqual(self.failures, [f"cannot start {sys.executable}: Permission denied"])
        self.assertEqual(pool.health, (0, 2))
        self.reactor.processes[0].die()
        self.reactor.advance(0)
        self.assertEqual(len(self.reactor.processes), 2)
        self.reactor.fault = None
        self.reactor.advance(60)
        self.assertEqual((len(self.reactor.processes), len(self.failures)), (3, 1))

    def test_never_serves(self) -> None:
        """A worker that ends for the third time before any has served is not started again, nor is another."""
        self.started()
        self.reactor.processes[-1].rpc.send(messages.StartFailed("the disk is full"))
        for _ in range(3):
            self.assertEqual(self.failures, [])
            self.reactor.processes[-1].die()
            self.reactor.advance(0.25)
        self.assertEqual(self.failures, ["the disk is full"])
        count = len(self.reactor.processes)
        self.reactor.advance(60)
        self.assertEqual(len(self.reactor.processes), count)

    def test_one_serves(self) -> None:
        """Where one has served, the other is started again however often it ends."""
        self.started()
        self.reactor.processes[-2].rpc.send(messages.Ready())
        for _ in range(9):
            self.reactor.processes[-1].die()
            self.reactor.advance(30)
        self.assertEqual((len(self.reactor.processes), self.failures), (13, []))

    def test_in_use(self) -> None:
        """What a worker uses is in use until it says otherwise, or ends."""
        one, other = self.reactor.processes
        a, b, c = (Digest.of(content) for content in (b"a", b"b", b"c"))
        one.rpc.send(messages.InUse(a))
        one.rpc.send(messages.InUse(b))
        other.rpc.send(messages.InUse(a))
        one.rpc.send(messages.NotInUse([a, b]))
        self.assertEqual([self.pool.uses(digest) for digest in (a, b, c)], [True, False, False])
        other.die()
        self.assertFalse(self.pool.uses(a))

    def test_call(self) -> None:
        """All workers that serve are called; one that ends meanwhile is left out."""
        one, other = self.reactor.processes
        one.results[messages.GetFindings], other.results[messages.GetFindings] = {"a": 1}, Deferred[Any]()
        calling = Deferred.fromCoroutine(self.pool.call(messages.GetFindings()))
        self.assertNoResult(calling)
        other.die()
        self.assertEqual(self.successResultOf(calling), {1: {"a": 1}})

    def test_unresponsive(self) -> None:
        """
        A worker that hangs delays no result of the others; it does not count as serving until it responds
        again.
        """
        one, other = self.reactor.processes
        one.results[messages.GetFindings], other.results[messages.GetFindings] = {"a": 1}, Deferred[Any]()
        calling = Deferred.fromCoroutine(self.pool.call(messages.GetFindings()))
        self.reactor.advance(1.9)
        self.assertNoResult(calling)
        self.reactor.advance(0.2)
        self.assertEqual(self.successResultOf(calling), {1: {"a": 1}})
        self.assertEqual(self.pool.health, (1, 2))
        other.results[messages.GetFindings].callback({"a": 2})
        other.results[messages.GetFindings] = {"a": 3}
        answers = self.successResultOf(Deferred.fromCoroutine(self.pool.call(messages.GetFindings())))
        self.assertEqual((answers, self.pool.health), ({1: {"a": 1}, 2: {"a": 3}}, (2, 2)))

    def test_metrics(self) -> None:
        """Metrics of workers that have ended still count, as far as they are known."""
        one, other = self.reactor.processes
        for worker, count in ((one, 2.0), (other, 3.0)):
            worker.results[messages.GetMetrics] = [["a", "", "counter", [["a_total", {}, count]]]]
        self.successResultOf(Deferred.fromCoroutine(self.pool.metrics()))
        one.die()
        families = self.successResultOf(Deferred.fromCoroutine(self.pool.metrics()))
        self.assertEqual(sum(samples[0][2] for process in families for *_, samples in process), 5.0)

    def test_messages(self) -> None:
        """Calls of workers have results; what one reports of the disk, or of grants, is sent to the others."""
        one, other = self.reactor.processes
        self.assertEqual(self.successResultOf(one.rpc.call(messages.ReleaseReservation("x"))), "a result")
        self.assertEqual(self.other_calls, [(1, messages.ReleaseReservation("x"))])
        one.rpc.send(messages.DiskFault("full"))
        self.assertEqual(one.received, [_HELLO])
        self.assertEqual(other.received[-1], messages.DiskFault("full"))
        revocation = Revocation(b"key", 5.0)
        one.rpc.send(revocation)
        self.assertEqual(one.received, [_HELLO])
        self.assertEqual(other.received[-1], revocation)

    def connect(self) -> Deferred[Any]:
        """The first worker wants a connection to the second."""
        reading, self.writing = os.pipe()
        self.addCleanup(os.close, self.writing)
        rpc = self.reactor.processes[0].rpc
        rpc.attach_descriptor(reading)
        connecting = rpc.call(messages.ConnectOwner(2))
        os.close(reading)
        return connecting

    def test_connect(self) -> None:
        """A connection is passed on, and the supervisor keeps no end of it."""
        other = self.reactor.processes[1]
        other.results[messages.AcceptSubscriber] = True
        self.assertTrue(self.successResultOf(self.connect()))
        descriptor = other.rpc.receive_descriptor()
        assert descriptor is not None
        os.close(descriptor)
        self.assertRaises(BrokenPipeError, os.write, self.writing, b"x")

    def test_connect_to_a_successor(self) -> None:
        """The supervisor waits for a worker that has ended, and for one that ends before it responds."""
        other = self.reactor.processes[1]
        other.results[messages.AcceptSubscriber] = Deferred[Any]()
        calling = self.connect()
        other.die()
        self.reactor.advance(0)
        self.assertNoResult(calling)
        successor = self.reactor.processes[2]
        successor.results[messages.AcceptSubscriber] = True
        successor.rpc.send(messages.Ready())
        self.assertTrue(self.successResultOf(calling))
        successor.connection.cut()

    def test_connect_timeout(self) -> None:
        """The wait has a timeout."""
        self.reactor.processes[1].die()
        calling = self.connect()
        self.reactor.advance(29)
        self.assertNoResult(calling)
        self.reactor.advance(2)
        self.assertFalse(self.successResultOf(calling))
        self.assertRaises(BrokenPipeError, os.write, self.writing, b"x")

    def test_wait_until_started(self) -> None:
        """The wait for all workers has a timeout."""
        self.successResultOf(Deferred.fromCoroutine(self.pool.wait_until_started()))
        self.reactor.processes[1].die()
        self.reactor.advance(0)
        starting = Deferred.fromCoroutine(self.pool.wait_until_started())
        self.assertNoResult(starting)
        self.reactor.processes[2].rpc.send(messages.Ready())
        self.successResultOf(starting)
        self.reactor.processes[2].die()
        self.reactor.advance(1)
        starting = Deferred.fromCoroutine(self.pool.wait_until_started())
        self.reactor.advance(31)
        self.successResultOf(starting)

    def test_stop(self) -> None:
        """All workers drain before any is stopped; none is started again; one that does not end is killed."""
        one, other = self.reactor.processes
        one.results[messages.Drain], other.results[messages.Drain] = CutOff(1, 2, 3), Deferred[Any]()
        draining = Deferred.fromCoroutine(self.pool.drain(30))
        self.assertNoResult(draining)
        self.assertNotIn(("end", {}), one.received)
        other.results[messages.Drain].callback(CutOff(4, 5, 6))
        self.assertEqual(self.successResultOf(draining), CutOff(5, 7, 9))
        ending = Deferred.fromCoroutine(self.pool.stop())
        self.assertEqual([worker.received[-1] for worker in (one, other)], [messages.Stop()] * 2)
        one.die()
        self.reactor.advance(11)
        self.assertEqual((one.signals, other.signals), ([], ["KILL"]))
        other.die()
        self.successResultOf(ending)
        self.assertEqual(len(self.reactor.processes), 2)
        self.assertEqual([front.fileno() for front in self.fronts], [-1, -1])

    def test_connect_unresponsive(self) -> None:
        """
        Nothing is connected to a worker that reads nothing, at once from the second time on; nothing is sent to
        it then that could be closed before it is sent, and it is healthy when it reads again.
        """
        _, other = self.reactor.processes
        ends = [os.pipe() for _ in range(2)]
        release = self.reactor.delivery.hold()
        first = Deferred.fromCoroutine(self.pool.connect_owner(2, ends[0][0]))
        self.reactor.advance(3)
        self.assertEqual(self.successResultOf(first), False)
        second = Deferred.fromCoroutine(self.pool.connect_owner(2, ends[1][0]))
        self.assertEqual(self.successResultOf(second), False)
        release()
        handed = other.rpc.receive_descriptor()
        assert handed is not None
        os.close(handed)
        self.assertIsNone(other.rpc.receive_descriptor())
        for _, writing in ends:
            os.close(writing)
        other.die()

    def test_stop_without_results(self) -> None:
        """
        A worker that fails to drain, and one that never responds, do not delay the end; nor does one that even the
        kernel cannot end.
        """
        one, other = self.reactor.processes
        one.results[messages.Drain], other.results[messages.Drain] = Deferred[Any](), Deferred[Any]()
        draining = Deferred.fromCoroutine(self.pool.drain(30))
        one.results[messages.Drain].errback(FileNotFoundError("/run/cache.sock"))
        self.assertEqual(len(self.flushLoggedErrors(FileNotFoundError)), 1)
        self.reactor.advance(29)
        self.assertNoResult(draining)
        self.reactor.advance(2)
        self.successResultOf(draining)
        ending = Deferred.fromCoroutine(self.pool.stop())
        self.reactor.advance(11)
        self.assertEqual((one.signals, other.signals), (["KILL"], ["KILL"]))
        one.die()
        self.assertNoResult(ending)
        self.reactor.advance(6)
        self.successResultOf(ending)

    def test_hangs(self) -> None:
        """A worker that has closed its connection and does not end is killed."""
        worker = self.reactor.processes[0]
        worker.connection.cut()
        self.assertEqual(self.pool.health, (1, 2))
        self.reactor.advance(11)
        self.assertEqual(worker.signals, ["KILL"])
