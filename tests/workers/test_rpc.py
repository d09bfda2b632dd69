"""Tests for :mod:`contentcache.workers.rpc`."""

from __future__ import annotations

import os
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.digest import Digest
from contentcache.workers import messages
from contentcache.workers.rpc import (
    CallTimeoutError,
    ConnectionClosedError,
    RemoteError,
    RPCConnection,
    UnresponsiveError,
)
from tests.workers.harness import Delivery, connect_in_memory


class RPCTests(SynchronousTestCase):
    """Two ends of a connection."""

    def setUp(self) -> None:
        """A connection to another process, which returns ``result`` for calls."""
        self.received: list[Any] = []
        self.closed: list[str] = []
        self.result: Any = None
        self.mine = RPCConnection(lambda _message: None, lambda: self.closed.append("mine"))
        self.theirs = RPCConnection(self.receive, lambda: self.closed.append("theirs"))
        self.delivery = Delivery()
        self.connection = connect_in_memory(self.delivery, self.mine, self.theirs)

    def receive(self, message: Any) -> Any:
        """What the other process receives."""
        self.received.append(message)
        return self.result

    def test_messages(self) -> None:
        """Messages arrive as they are, in order, however the bytes are split on the way."""
        expected = [messages.StartFailed("\udcff\n"), messages.InUse(Digest.of(b"x")), messages.IndexLost()]
        for message in expected:
            self.mine.send(message)
        self.assertEqual(self.received, expected)
        self.received.clear()
        for byte in b"".join(self.connection.sent):
            self.theirs.dataReceived(bytes([byte]))
        self.assertEqual(self.received, expected)

    def test_calls(self) -> None:
        """Results find their calls, also those that come later and in another order."""
        first, second = Deferred[int](), Deferred[int]()
        self.result = first
        one = self.mine.call("one")
        self.result = second
        two = self.mine.call("two")
        second.callback(2)
        self.assertNoResult(one)
        self.assertEqual(self.successResultOf(two), 2)
        first.callback(1)
        self.assertEqual(self.successResultOf(one), 1)

    def test_file(self) -> None:
        """A descriptor arrives with its message."""
        reading, writing = os.pipe()
        self.mine.attach_descriptor(writing)
        self.mine.send(messages.AttachedFile())
        os.close(writing)
        descriptor = self.theirs.receive_descriptor()
        assert descriptor is not None
        os.write(descriptor, b"x")
        os.close(descriptor)
        self.assertEqual(os.read(reading, 9), b"x")
        os.close(reading)
        self.assertIsNone(self.theirs.receive_descriptor())

    def test_closed(self) -> None:
        """
        When the connection is closed, calls fail, files that nobody has received are closed, and what is sent
        is lost.
        """
        reading, writing = os.pipe()
        self.mine.attach_descriptor(writing)
        self.mine.send(messages.AttachedFile())
        os.close(writing)
        self.result = Deferred[int]()
        waiting = self.mine.call("one")
        self.connection.cut()
        self.failureResultOf(waiting, ConnectionClosedError)
        self.failureResultOf(self.mine.call("two"), ConnectionClosedError)
        self.mine.send("three")
        self.mine.attach_descriptor(reading)
        self.assertEqual(os.read(reading, 9), b"", "no process has it open any more")
        os.close(reading)
        self.assertEqual(self.closed, ["mine", "theirs"])

    def test_defects(self) -> None:
        """A defect in one message is logged, fails the call, and ends nothing."""
        nothing: dict[str, str] = {}
        self.theirs._receive = lambda message: nothing[message]
        self.mine.send("one")
        failure = self.failureResultOf(self.mine.call("two"), RemoteError)
        self.assertEqual(str(failure.value), "KeyError: 'two'")
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 2)
        self.theirs._receive = self.receive
        self.mine.send("three")
        self.assertEqual(self.received, ["three"])

    def test_undecodable(self) -> None:
        """A line that cannot be decoded is logged, and ends nothing."""
        for line in (b'{"message":{"$type":"Unknown"}}\n', b"no JSON\n", b"\xff\n"):
            self.theirs.dataReceived(line)
        self.assertEqual(len(self.flushLoggedErrors()), 3)
        self.mine.send("one")
        self.assertEqual((self.received, self.closed), (["one"], []))

    def test_failing_later(self) -> None:
        """A call fails where the result fails later, and where it cannot be sent."""
        self.result = Deferred[int]()
        call = self.mine.call("one")
        self.assertNoResult(call)
        self.result.errback(OSError("gone"))
        self.failureResultOf(call, RemoteError)
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
        self.result = object()
        self.failureResultOf(self.mine.call("two"), RemoteError)
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)

    def test_timeout(self) -> None:
        """A call waits for its timeout; a result that comes later is ignored."""
        self.result = late = Deferred[int]()
        call = self.mine.call("one", timeout=60)
        self.connection.reactor.advance(59)
        self.assertNoResult(call)
        self.connection.reactor.advance(2)
        self.failureResultOf(call, CallTimeoutError)
        self.assertFalse(self.mine.is_unresponsive, "it has read the call")
        late.callback(1)
        self.result = 2
        self.assertEqual(self.successResultOf(self.mine.call("two")), 2)
        self.assertEqual(self.connection.reactor.getDelayedCalls(), [])

    def test_unresponsive(self) -> None:
        """
        A process that reads nothing is unresponsive after one call that waits for three seconds; the next ones
        fail at once. As soon as it reads again calls are sent again.
        """
        self.result = 1
        waiting = self.delivery.hold()
        call = self.mine.call("one")
        self.connection.reactor.advance(2.9)
        self.assertNoResult(call)
        self.connection.reactor.advance(0.2)
        self.failureResultOf(call, UnresponsiveError)
        self.failureResultOf(self.mine.call("two"), UnresponsiveError)
        waiting()
        self.assertEqual(self.received, ["one"])
        self.assertEqual(self.successResultOf(self.mine.call("three")), 1)
        self.assertEqual(self.connection.reactor.getDelayedCalls(), [])

    def test_close_when_unresponsive(self) -> None:
        """A connection that waits for messages is closed once the other process reads nothing."""
        self.mine.close_when_unresponsive()
        for _ in range(4):
            self.connection.reactor.advance(5)
        self.assertEqual(self.closed, [])
        self.assertEqual(set(self.received), {messages.Heartbeat()})
        self.delivery.hold()
        self.connection.reactor.advance(5)
        self.connection.reactor.advance(3)
        self.assertEqual(self.closed, ["mine", "theirs"])
        self.assertEqual(self.connection.reactor.getDelayedCalls(), [])

    def test_close_when_closed(self) -> None:
        """A closed connection is not watched."""
        self.mine.close_when_unresponsive()
        self.connection.cut()
        self.assertEqual(self.connection.reactor.getDelayedCalls(), [])
        self.mine.close_when_unresponsive()
        self.assertEqual(self.connection.reactor.getDelayedCalls(), [])
