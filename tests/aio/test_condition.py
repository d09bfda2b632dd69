"""Tests for :mod:`contentcache.aio.condition`."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from contentcache.aio.condition import Condition, sleep, wait_at_most


class ConditionTests(SynchronousTestCase):
    """Wake-ups."""

    def test_all(self) -> None:
        """All who wait are woken, once; who comes later waits for the next time."""
        condition = Condition()
        first, second = condition.wait(), condition.wait()
        condition.notify_all()
        self.successResultOf(first)
        self.successResultOf(second)
        later = condition.wait()
        self.assertNoResult(later)
        condition.notify_all()
        self.successResultOf(later)

    def test_again(self) -> None:
        """Who waits again as it is woken is not woken twice."""
        condition = Condition()
        again: list[Deferred[None]] = []
        condition.wait().addCallback(lambda _none: again.append(condition.wait()))
        condition.notify_all()
        self.assertNoResult(again[0])

    def test_cancelled(self) -> None:
        """Who is cancelled is forgotten."""
        condition = Condition()
        waiter = condition.wait()
        waiter.cancel()
        self.failureResultOf(waiter, CancelledError)
        condition.notify_all()

    def test_sleep(self) -> None:
        """A sleep ends after its seconds; a cancelled one leaves no call behind."""
        clock = Clock()
        waiter, cancelled = sleep(clock, 2), sleep(clock, 5)
        cancelled.cancel()
        self.failureResultOf(cancelled, CancelledError)
        clock.advance(1)
        self.assertNoResult(waiter)
        clock.advance(1)
        self.successResultOf(waiter)
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_at_most(self) -> None:
        """Who waits with a bound learns whether it was woken; no call is left behind."""
        clock, condition = Clock(), Condition()
        woken = Deferred.fromCoroutine(wait_at_most(clock, 3, condition))
        condition.notify_all()
        self.assertTrue(self.successResultOf(woken))
        self.assertEqual(clock.getDelayedCalls(), [])
        late = Deferred.fromCoroutine(wait_at_most(clock, 3, condition))
        clock.advance(3)
        self.assertFalse(self.successResultOf(late))
        self.assertEqual(condition._waiters, [])
        condition.notify_all()

    def test_at_most_cancelled(self) -> None:
        """A cancelled wait with a bound leaves neither a waiter nor a delayed call behind."""
        clock, condition = Clock(), Condition()
        waiting = Deferred.fromCoroutine(wait_at_most(clock, 3, condition))
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.assertEqual((clock.getDelayedCalls(), condition._waiters), ([], []))
        condition.notify_all()
