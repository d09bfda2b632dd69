"""Tests for :mod:`contentcache.workers.crew`: children that are no processes."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessTerminated
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from contentcache.delivery.access import Revocation
from contentcache.workers.conversation import Conversation, Values
from contentcache.workers.crew import CONTROL, FRONT, INDEX, LOCK, Crew
from contentcache.workers.words import revocation_in_words
from tests.workers.house import End, Post, join


class _Process:
    """A child, as much of it as its parent sees."""

    def __init__(self, protocol: Any, descriptors: Mapping[int, Any]) -> None:
        self.protocol = protocol
        self.descriptors = descriptors
        self.signals: list[str] = []
        self.heard: list[tuple[str, Values]] = []
        self.line: End
        self.conversation = Conversation(self.hear)
        self.answers: dict[str, Any] = {}

    def hear(self, name: str, values: Values) -> Any:
        """What the parent says."""
        self.heard.append((name, values))
        return self.answers.get(name)

    def signalProcess(self, name: str) -> None:
        """A signal (``IProcessTransport``)."""
        self.signals.append(name)

    def die(self) -> None:
        """End."""
        self.line.cut()
        self.protocol.processEnded(Failure(ProcessTerminated(signal=9)))


class _Reactor(Clock):
    """Starts processes that are none."""

    def __init__(self) -> None:
        super().__init__()
        self.children: list[_Process] = []
        self.post = Post()

    def spawnProcess(self, protocol: Any, _path: str, _words: Any, **more: Any) -> _Process:
        """Start a child (``IReactorProcess``)."""
        self.children.append(_Process(protocol, more["childFDs"]))
        return self.children[-1]

    def adoptStreamConnection(self, _descriptor: int, _family: int, factory: Any) -> None:
        """Take over the parent's end (``IReactorSocket``)."""
        child = self.children[-1]
        child.line = join(self.post, factory.buildProtocol(None), child.conversation)
        child.line.reactor = self


class CrewTests(SynchronousTestCase):
    """A parent with two children."""

    def setUp(self) -> None:
        """Both are started, and serve."""
        self.reactor = _Reactor()
        self.asked: list[tuple[int, str]] = []
        self.ends: list[socket.socket] = []
        self.crew = Crew(
            self.reactor,
            hello=lambda: {"secret": "x"},
            asked=self.answer,
            serve_index=lambda _number, end: self.ends.append(end),
            output=None,
            lock=lambda: 99,
            environ={},
        )
        self.fronts = [socket.socket(), socket.socket()]
        self.crew.start(self.fronts)
        self.addCleanup(self.close)
        for child in self.reactor.children:
            child.conversation.tell("ready")

    def close(self) -> None:
        """Give back what no child took."""
        for end in (*self.fronts, *self.ends):
            end.close()

    async def answer(self, number: int, name: str, _values: Values) -> Any:
        """What the crew does not know itself."""
        self.asked.append((number, name))
        return "an answer"

    def test_start(self) -> None:
        """Each has its own socket, two lines, the lock and the parent's output, and is told what it is."""
        for child, front in zip(self.reactor.children, self.fronts, strict=True):
            self.assertEqual(set(child.descriptors), {0, 1, 2, CONTROL, INDEX, FRONT, LOCK})
            self.assertEqual((child.descriptors[FRONT], child.descriptors[LOCK]), (front.fileno(), 99))
            self.assertEqual((child.descriptors[1], child.descriptors[2]), (1, 2))
            self.assertEqual(child.heard, [("hello", {"secret": "x"})])
        self.assertEqual(self.crew.standing, (2, 2))

    def test_restarts(self) -> None:
        """A child that dies has a successor with its socket: at once, and later if it dies of its start."""
        self.reactor.children[0].die()
        self.assertEqual(self.crew.standing, (1, 2))
        self.reactor.advance(0)
        self.assertEqual(len(self.reactor.children), 3)
        self.assertEqual(self.reactor.children[2].descriptors[FRONT], self.fronts[0].fileno())
        self.reactor.children[2].die()
        self.reactor.advance(0.2)
        self.assertEqual(len(self.reactor.children), 3)
        self.reactor.advance(0.05)
        self.assertEqual(len(self.reactor.children), 4)
        self.reactor.children[3].conversation.tell("ready")
        self.assertEqual(self.crew.standing, (2, 2))

    def test_using(self) -> None:
        """What a child uses is in use until it says otherwise, or dies."""
        one, other = self.reactor.children
        one.conversation.tell("using", digest="a")
        one.conversation.tell("using", digest="b")
        other.conversation.tell("using", digest="a")
        one.conversation.tell("free", digests=["a", "b"])
        self.assertEqual([self.crew.uses(name) for name in ("a", "b", "c")], [True, False, False])
        other.die()
        self.assertFalse(self.crew.uses("a"))

    def test_ask(self) -> None:
        """All who serve answer; one who dies meanwhile is left out."""
        one, other = self.reactor.children
        one.answers["findings"], other.answers["findings"] = {"a": 1}, Deferred[Any]()
        asked = Deferred.fromCoroutine(self.crew.ask("findings"))
        self.assertNoResult(asked)
        other.die()
        self.assertEqual(self.successResultOf(asked), {1: {"a": 1}})

    def test_silent(self) -> None:
        """One who hangs holds up nobody's answer; it does not count as serving until it answers again."""
        one, other = self.reactor.children
        one.answers["findings"], other.answers["findings"] = {"a": 1}, Deferred[Any]()
        asked = Deferred.fromCoroutine(self.crew.ask("findings"))
        self.reactor.advance(1.9)
        self.assertNoResult(asked)
        self.reactor.advance(0.2)
        self.assertEqual(self.successResultOf(asked), {1: {"a": 1}})
        self.assertEqual(self.crew.standing, (1, 2))
        other.answers["findings"].callback({"a": 2})
        other.answers["findings"] = {"a": 3}
        answers = self.successResultOf(Deferred.fromCoroutine(self.crew.ask("findings")))
        self.assertEqual((answers, self.crew.standing), ({1: {"a": 1}, 2: {"a": 3}}, (2, 2)))

    def test_counted(self) -> None:
        """What the dead have counted is not forgotten, as far as it is known."""
        one, other = self.reactor.children
        for child, count in ((one, 2.0), (other, 3.0)):
            child.answers["metrics"] = [["a", "", "counter", [["a_total", {}, count]]]]
        self.successResultOf(Deferred.fromCoroutine(self.crew.counted()))
        one.die()
        families = self.successResultOf(Deferred.fromCoroutine(self.crew.counted()))
        self.assertEqual(sum(samples[0][2] for process in families for *_, samples in process), 5.0)

    def test_questions(self) -> None:
        """What a child asks is answered; what one reports of the disk, or of grants, the others hear."""
        one, other = self.reactor.children
        self.assertEqual(self.successResultOf(one.conversation.ask("room", size=1)), "an answer")
        self.assertEqual(self.asked, [(1, "room")])
        one.conversation.tell("disk", fault="full")
        self.assertEqual([name for name, _ in one.heard], ["hello"])
        self.assertEqual(other.heard[-1], ("disk", {"fault": "full"}))
        revocation = revocation_in_words(Revocation(b"key", 5.0))
        one.conversation.tell("revoked", **revocation)
        self.assertEqual([name for name, _ in one.heard], ["hello"])
        self.assertEqual(other.heard[-1], ("revoked", revocation))

    def connect(self) -> Deferred[Any]:
        """The first child wants to talk to the second."""
        reading, self.writing = os.pipe()
        self.addCleanup(os.close, self.writing)
        asking = self.reactor.children[0].conversation
        asking.hand(reading)
        asked = asking.ask("connect", to=2)
        os.close(reading)
        return asked

    def test_connect(self) -> None:
        """A line is handed on, and the parent keeps no end of it."""
        other = self.reactor.children[1]
        other.answers["caller"] = True
        self.assertTrue(self.successResultOf(self.connect()))
        descriptor = other.conversation.take_descriptor()
        assert descriptor is not None
        os.close(descriptor)
        self.assertRaises(BrokenPipeError, os.write, self.writing, b"x")

    def test_connect_to_a_successor(self) -> None:
        """Who is dead is waited for, and who dies before it answers too."""
        other = self.reactor.children[1]
        other.answers["caller"] = Deferred[Any]()
        asked = self.connect()
        other.die()
        self.reactor.advance(0)
        self.assertNoResult(asked)
        successor = self.reactor.children[2]
        successor.answers["caller"] = True
        successor.conversation.tell("ready")
        self.assertTrue(self.successResultOf(asked))
        successor.line.cut()

    def test_connect_to_nobody(self) -> None:
        """But not for ever."""
        self.reactor.children[1].die()
        asked = self.connect()
        self.reactor.advance(29)
        self.assertNoResult(asked)
        self.reactor.advance(2)
        self.assertFalse(self.successResultOf(asked))
        self.assertRaises(BrokenPipeError, os.write, self.writing, b"x")

    def test_settle(self) -> None:
        """Who waits for all of them waits for each, but not for ever."""
        self.successResultOf(Deferred.fromCoroutine(self.crew.settle()))
        self.reactor.children[1].die()
        self.reactor.advance(0)
        settling = Deferred.fromCoroutine(self.crew.settle())
        self.assertNoResult(settling)
        self.reactor.children[2].conversation.tell("ready")
        self.successResultOf(settling)
        self.reactor.children[2].die()
        self.reactor.advance(1)
        settling = Deferred.fromCoroutine(self.crew.settle())
        self.reactor.advance(31)
        self.successResultOf(settling)

    def test_end(self) -> None:
        """All of them drain before any is told to end; nobody is started again; who stays is killed."""
        one, other = self.reactor.children
        one.answers["drain"], other.answers["drain"] = True, Deferred[Any]()
        draining = Deferred.fromCoroutine(self.crew.drain(30))
        self.assertNoResult(draining)
        self.assertNotIn(("end", {}), one.heard)
        other.answers["drain"].callback(True)
        self.successResultOf(draining)
        ending = Deferred.fromCoroutine(self.crew.end())
        self.assertEqual([child.heard[-1][0] for child in (one, other)], ["end", "end"])
        one.die()
        self.reactor.advance(11)
        self.assertEqual((one.signals, other.signals), ([], ["KILL"]))
        other.die()
        self.successResultOf(ending)
        self.assertEqual(len(self.reactor.children), 2)
        self.assertEqual([front.fileno() for front in self.fronts], [-1, -1])

    def test_connect_silent(self) -> None:
        """
        To a worker that reads nothing nobody is connected, at once from the second time on; it is handed
        nothing then that could be closed before it is sent, and is well when it reads again.
        """
        _, other = self.reactor.children
        ends = [os.pipe() for _ in range(2)]
        release = self.reactor.post.hold()
        first = Deferred.fromCoroutine(self.crew.connect(2, ends[0][0]))
        self.reactor.advance(3)
        self.assertEqual(self.successResultOf(first), False)
        second = Deferred.fromCoroutine(self.crew.connect(2, ends[1][0]))
        self.assertEqual(self.successResultOf(second), False)
        release()
        handed = other.conversation.take_descriptor()
        assert handed is not None
        os.close(handed)
        self.assertIsNone(other.conversation.take_descriptor())
        for _, writing in ends:
            os.close(writing)
        other.die()

    def test_end_without_answers(self) -> None:
        """
        A worker that fails to drain, and one that never answers, do not hold up the end; nor does one that
        even the kernel cannot end.
        """
        one, other = self.reactor.children
        one.answers["drain"], other.answers["drain"] = Deferred[Any](), Deferred[Any]()
        draining = Deferred.fromCoroutine(self.crew.drain(30))
        one.answers["drain"].errback(FileNotFoundError("/run/cache.sock"))
        self.assertEqual(len(self.flushLoggedErrors(FileNotFoundError)), 1)
        self.reactor.advance(29)
        self.assertNoResult(draining)
        self.reactor.advance(2)
        self.successResultOf(draining)
        ending = Deferred.fromCoroutine(self.crew.end())
        self.reactor.advance(11)
        self.assertEqual((one.signals, other.signals), (["KILL"], ["KILL"]))
        one.die()
        self.assertNoResult(ending)
        self.reactor.advance(6)
        self.successResultOf(ending)

    def test_hangs(self) -> None:
        """One that has hung up and does not end is killed."""
        child = self.reactor.children[0]
        child.line.cut()
        self.assertEqual(self.crew.standing, (1, 2))
        self.reactor.advance(11)
        self.assertEqual(child.signals, ["KILL"])
