"""Tests for :mod:`contentcache.aio.tasks`."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from contentcache.aio.tasks import DeadlineError, cancellable, with_timeout


class CancellableTests(SynchronousTestCase):
    """Work whose caller may be cancelled at any moment."""

    def test_passed_on(self) -> None:
        """A result and a failure arrive as they are."""
        work: Deferred[int] = Deferred()
        outer = cancellable(work)
        work.callback(1)
        self.assertEqual(self.successResultOf(outer), 1)
        broken: Deferred[int] = Deferred()
        outer = cancellable(broken)
        broken.errback(KeyError())
        self.failureResultOf(outer, KeyError)

    def test_cancelled(self) -> None:
        """Cancelling raises ``CancelledError``, and not what the work raises because of it."""
        work: Deferred[int] = Deferred(lambda mine: mine.errback(ConnectionError()))
        outer = cancellable(work)
        outer.cancel()
        self.failureResultOf(outer, CancelledError)

    def test_undone(self) -> None:
        """A result that comes in spite of the cancellation is undone."""
        undone: list[int] = []
        work: Deferred[int] = Deferred(lambda mine: mine.callback(7))
        outer = cancellable(work, undone.append)
        outer.cancel()
        self.failureResultOf(outer, CancelledError)
        self.assertEqual(undone, [7])


class TimeoutTests(SynchronousTestCase):
    """Work that is bounded by a timeout."""

    def setUp(self) -> None:
        self.clock = Clock()

    def test_in_time(self) -> None:
        """The result of work that ends in time, or its error; no delayed call is left behind."""
        work: Deferred[int] = Deferred()
        running = Deferred.fromCoroutine(with_timeout(self.clock, 3, work))
        self.clock.advance(2)
        work.callback(1)
        self.assertEqual(self.successResultOf(running), 1)
        broken: Deferred[int] = Deferred()
        running = Deferred.fromCoroutine(with_timeout(self.clock, 3, broken))
        broken.errback(KeyError())
        self.failureResultOf(running, KeyError)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_too_late(self) -> None:
        """Work is cancelled when its time is up; what it raises then is the cause of the error."""
        work: Deferred[int] = Deferred(lambda mine: mine.errback(ConnectionError()))
        running = Deferred.fromCoroutine(with_timeout(self.clock, 3, work))
        self.clock.advance(3)
        error = self.failureResultOf(running, DeadlineError).value
        self.assertIsInstance(error.__cause__, ConnectionError)

    def test_cancelled(self) -> None:
        """A caller that is cancelled cancels the work and gets ``CancelledError``."""
        cancelled: list[object] = []
        work: Deferred[int] = Deferred(cancelled.append)
        running = Deferred.fromCoroutine(with_timeout(self.clock, 3, work))
        running.cancel()
        self.failureResultOf(running, CancelledError)
        self.assertEqual(cancelled, [work])
        self.assertEqual(self.clock.getDelayedCalls(), [])
