"""Tests for :mod:`contentcache.workers.conversation` and :mod:`contentcache.workers.words`."""

from __future__ import annotations

import os
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from contentcache.core import errors
from contentcache.core.credentials import ANONYMOUS, LOCALLY_AUTHORIZED, OWN, Credential
from contentcache.core.digest import Digest
from contentcache.core.errors import CacheError, ContentWrong, OriginRefused, UpstreamBroken
from contentcache.core.header_policy import Headers
from contentcache.core.routes import Content
from contentcache.delivery.shared_download import AuthorizationNeeded, UndecidedError
from contentcache.delivery.subscribers import ContentRequest
from contentcache.tls.files import identity_in
from contentcache.upstream.client import TargetRefused
from contentcache.workers.conversation import (
    Conversation,
    GoneError,
    LateError,
    RemoteError,
    SilentError,
    Values,
)
from contentcache.workers.words import (
    asking_in_words,
    asking_of,
    error_in_words,
    error_of,
    identity_in_words,
    identity_of,
)
from tests.tls.certificates import make
from tests.workers.house import Post, join
from tests.workers.test_borrowing import FakeRegistry


class ConversationTests(SynchronousTestCase):
    """Two ends of a line."""

    def setUp(self) -> None:
        """A line between us and another one, who answers what it is asked."""
        self.heard: list[tuple[str, Values]] = []
        self.left: list[str] = []
        self.answer: Any = None
        self.mine = Conversation(lambda _name, _values: None, lambda: self.left.append("mine"))
        self.theirs = Conversation(self.hear, lambda: self.left.append("theirs"))
        self.post = Post()
        self.line = join(self.post, self.mine, self.theirs)

    def hear(self, name: str, values: Values) -> Any:
        """What the other end hears."""
        self.heard.append((name, values))
        return self.answer

    def test_told(self) -> None:
        """What is told arrives as it is, in order, however it is cut up on the way."""
        self.mine.tell("one", text="\udcff\n", number=1.5)
        self.mine.tell("two", nothing=None)
        expected = [("one", {"text": "\udcff\n", "number": 1.5}), ("two", {"nothing": None})]
        self.assertEqual(self.heard, expected)
        self.heard.clear()
        for byte in b"".join(self.line.said):
            self.theirs.dataReceived(bytes([byte]))
        self.assertEqual(self.heard, expected)

    def test_asked(self) -> None:
        """Answers find their questions, also those that come later and in another order."""
        first, second = Deferred[int](), Deferred[int]()
        self.answer = first
        one = self.mine.ask("one")
        self.answer = second
        two = self.mine.ask("two")
        second.callback(2)
        self.assertNoResult(one)
        self.assertEqual(self.successResultOf(two), 2)
        first.callback(1)
        self.assertEqual(self.successResultOf(one), 1)

    def test_file(self) -> None:
        """A file goes along with what is said of it."""
        reading, writing = os.pipe()
        self.mine.hand(writing)
        self.mine.tell("file")
        os.close(writing)
        descriptor = self.theirs.take_descriptor()
        assert descriptor is not None
        os.write(descriptor, b"x")
        os.close(descriptor)
        self.assertEqual(os.read(reading, 9), b"x")
        os.close(reading)
        self.assertIsNone(self.theirs.take_descriptor())

    def test_gone(self) -> None:
        """When the other end goes, who waits for it hears so, files that nobody took are closed, and whatever
        is said is said in vain."""
        reading, writing = os.pipe()
        self.mine.hand(writing)
        self.mine.tell("file")
        os.close(writing)
        self.answer = Deferred[int]()
        waiting = self.mine.ask("one")
        self.line.cut()
        self.failureResultOf(waiting, GoneError)
        self.failureResultOf(self.mine.ask("two"), GoneError)
        self.mine.tell("three")
        self.mine.hand(reading)
        self.assertEqual(os.read(reading, 9), b"", "nobody has it open any more")
        os.close(reading)
        self.assertEqual(self.left, ["mine", "theirs"])

    def test_defects(self) -> None:
        """A defect in one thing is logged, told to who has asked, and ends nothing."""
        nothing: dict[str, str] = {}
        self.theirs._heard = lambda name, _values: nothing[name]
        self.mine.tell("one")
        failure = self.failureResultOf(self.mine.ask("two"), RemoteError)
        self.assertEqual(str(failure.value), "KeyError: 'two'")
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 2)
        self.theirs._heard = self.hear
        self.mine.tell("three")
        self.assertEqual(self.heard, [("three", {})])

    def test_failing_later(self) -> None:
        """Who asks hears of a failure that comes later, and of an answer that cannot be sent."""
        self.answer = Deferred[int]()
        asked = self.mine.ask("one")
        self.assertNoResult(asked)
        self.answer.errback(OSError("gone"))
        self.failureResultOf(asked, RemoteError)
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
        self.answer = object()
        self.failureResultOf(self.mine.ask("two"), RemoteError)
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)

    def test_late(self) -> None:
        """An answer is waited for as long as it was said; one that comes later is nobody's."""
        self.answer = answer = Deferred[int]()
        asked = self.mine.ask("one", timeout=60)
        self.line.reactor.advance(59)
        self.assertNoResult(asked)
        self.line.reactor.advance(2)
        self.failureResultOf(asked, LateError)
        self.assertFalse(self.mine.is_silent, "it has read the question")
        answer.callback(1)
        self.answer = 2
        self.assertEqual(self.successResultOf(self.mine.ask("two")), 2)
        self.assertEqual(self.line.reactor.getDelayedCalls(), [])

    def test_silent(self) -> None:
        """
        A process that reads nothing is known after one question that waits in vain, for three seconds; the
        next ones fail at once. As soon as it reads again it is asked again.
        """
        self.answer = 1
        waiting = self.post.hold()
        asked = self.mine.ask("one")
        self.line.reactor.advance(2.9)
        self.assertNoResult(asked)
        self.line.reactor.advance(0.2)
        self.failureResultOf(asked, SilentError)
        self.failureResultOf(self.mine.ask("two"), SilentError)
        waiting()
        self.assertEqual([name for name, _ in self.heard], ["one"])
        self.assertEqual(self.successResultOf(self.mine.ask("three")), 1)
        self.assertEqual(self.line.reactor.getDelayedCalls(), [])

    def test_watch(self) -> None:
        """Who waits for what another process tells hangs up once that reads nothing."""
        self.mine.watch()
        for _ in range(4):
            self.line.reactor.advance(5)
        self.assertEqual(self.left, [])
        self.assertEqual({name for name, _ in self.heard}, {"alive"})
        self.post.hold()
        self.line.reactor.advance(5)
        self.line.reactor.advance(3)
        self.assertEqual(self.left, ["mine", "theirs"])
        self.assertEqual(self.line.reactor.getDelayedCalls(), [])

    def test_watch_ends(self) -> None:
        """Nobody is watched who has gone."""
        self.mine.watch()
        self.line.cut()
        self.assertEqual(self.line.reactor.getDelayedCalls(), [])
        self.mine.watch()
        self.assertEqual(self.line.reactor.getDelayedCalls(), [])


class WordsTests(SynchronousTestCase):
    """Values that go from one process to another."""

    def test_errors(self) -> None:
        """Every error arrives as what it is; one of a kind of its own as the nearest that everybody knows."""
        kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
        headers: Headers = {"Retry-After": "5", "Warning": ("299 - a", "299 - b")}
        made = [
            kind("a message", detail={"a": 1}, headers=headers)
            for kind in (*kinds, UndecidedError, AuthorizationNeeded)
            if issubclass(kind, CacheError) and kind not in {CacheError, OriginRefused}
        ]
        for error in made:
            again = error_of(error_in_words(error))
            self.assertIs(type(again), type(error))
            self.assertEqual((again.message, again.detail), (error.message, error.detail))
            self.assertEqual((again.headers, again.status), (error.headers, error.status))
        self.assertIs(type(error_of(error_in_words(TargetRefused("x")))), UpstreamBroken)
        self.assertIsInstance(error_of(error_in_words(ContentWrong("x"))), ContentWrong)

    def test_questions(self) -> None:
        """A question is the same for the other worker, and so is its name."""
        registry: Any = FakeRegistry()
        content = Content("org/app", "blobs", Digest.of(b"x"))
        for credential in (
            ANONYMOUS,
            OWN,
            LOCALLY_AUTHORIZED,
            Credential("Basic \udcff"),
            Credential(signed="a.b.c"),
        ):
            asking = ContentRequest(registry, content, credential, ("a/b", "c/d"), "1.1 contentcache-1")
            again = asking_of(asking_in_words(asking), {registry.upstream.origin: registry}.__getitem__)
            self.assertEqual(again, asking)
            self.assertEqual(again.credential.locally_authorized, credential.locally_authorized)

    def test_certificates(self) -> None:
        """A certificate goes with its chain and its key."""
        made = make("one", hosts=("one.example",))
        identity = identity_in("one", made.pem + made.key_pem())
        self.assertEqual(
            identity_in_words(identity_of(identity_in_words(identity))), identity_in_words(identity)
        )
