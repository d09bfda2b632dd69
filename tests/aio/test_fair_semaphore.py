"""Tests for :mod:`contentcache.aio.fair_semaphore`."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from contentcache.aio.fair_semaphore import FairSemaphore, QueueBounds, Release, SemaphorePerKey
from contentcache.core.errors import Overloaded


class FairSemaphoreTests(SynchronousTestCase):
    """Permits and who gets them."""

    def acquire(self, semaphore: FairSemaphore[str], key: str) -> Deferred[Release]:
        """Somebody who wants a permit."""
        return Deferred.fromCoroutine(semaphore.acquire(key))

    def test_no_limit(self) -> None:
        """Without a limit everybody has a permit at once."""
        semaphore: FairSemaphore[str] = FairSemaphore(None)
        for _ in range(100):
            self.successResultOf(self.acquire(semaphore, "a"))()

    def test_waits(self) -> None:
        """Beyond the limit one waits until a permit is given back, first come, first served."""
        semaphore: FairSemaphore[str] = FairSemaphore(1)
        release = self.successResultOf(self.acquire(semaphore, "a"))
        second, third = self.acquire(semaphore, "a"), self.acquire(semaphore, "a")
        self.assertNoResult(second)
        release()
        release()  # twice is once
        self.successResultOf(second)
        self.assertNoResult(third)

    def test_fair(self) -> None:
        """Keys take turns: one with many waiters delays the others by one."""
        semaphore: FairSemaphore[str] = FairSemaphore(1)
        release = self.successResultOf(self.acquire(semaphore, "x"))
        order: list[str] = []
        for key in ("a", "a", "a", "b", "c"):
            self.acquire(semaphore, key).addCallback(_note, key, order)
        release()
        self.assertEqual(order, ["a", "b", "c", "a", "a"])

    def test_many_deep(self) -> None:
        """A thousand waiters who give back at once do not nest a thousand calls."""
        semaphore: FairSemaphore[str] = FairSemaphore(1)
        release = self.successResultOf(self.acquire(semaphore, "x"))
        order: list[str] = []
        for _ in range(5000):
            self.acquire(semaphore, "a").addCallback(_note, "a", order)
        release()
        self.assertEqual(len(order), 5000)

    def test_timeout(self) -> None:
        """Who waits too long is refused, and a cancelled one leaves no call behind."""
        clock = Clock()
        semaphore: FairSemaphore[str] = FairSemaphore(1, timer=clock, timeout=10)
        self.successResultOf(self.acquire(semaphore, "a"))
        late, left = self.acquire(semaphore, "a"), self.acquire(semaphore, "b")
        left.cancel()
        self.failureResultOf(left, CancelledError)
        clock.advance(10)
        self.failureResultOf(late, Overloaded)
        self.assertEqual(clock.getDelayedCalls(), [])
        self.assertEqual(semaphore.waiting, 0)

    def test_bounds(self) -> None:
        """A full queue refuses; a key without waiters takes the last place of the key that has most."""
        semaphore: FairSemaphore[str] = FairSemaphore(1, bounds=QueueBounds(3, 2))
        self.successResultOf(self.acquire(semaphore, "a"))
        first, second = self.acquire(semaphore, "a"), self.acquire(semaphore, "a")
        self.failureResultOf(self.acquire(semaphore, "a"), Overloaded)
        third = self.acquire(semaphore, "b")
        fourth = self.acquire(semaphore, "c")
        self.failureResultOf(second, Overloaded)
        self.failureResultOf(self.acquire(semaphore, "d"), Overloaded)
        for waiter in (first, third, fourth):
            self.assertNoResult(waiter)

    def test_per_key(self) -> None:
        """Each key has permits of its own, and its waiters are served first come, first served."""
        semaphores: SemaphorePerKey[str] = SemaphorePerKey(2)
        first, second, third, fourth = (Deferred.fromCoroutine(semaphores.acquire("a")) for _ in range(4))
        release = self.successResultOf(first)
        self.successResultOf(second)
        self.assertNoResult(third)
        self.successResultOf(Deferred.fromCoroutine(semaphores.acquire("b")))
        release()
        self.successResultOf(third)
        self.assertNoResult(fourth)

    @given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["acquire", "release", "cancel"]))))
    def test_never_more(self, steps: list[tuple[str, str]]) -> None:
        """Whatever happens in whatever order, no more than the limit have a permit, and none is lost."""
        semaphore: FairSemaphore[str] = FairSemaphore(2)
        held: list[Release] = []
        waiting: list[Deferred[None]] = []
        for key, step in steps:
            if step == "acquire":
                waiting.append(self.acquire(semaphore, key).addCallback(held.append))
            elif step == "release" and held:
                held.pop(0)()
            elif step == "cancel" and waiting:
                waiting.pop(0).addErrback(lambda failure: failure.trap(CancelledError)).cancel()
            self.assertLessEqual(len(held), 2)
            self.assertTrue(len(held) == 2 or semaphore.waiting == 0)
        while held:
            held.pop()()
        self.assertEqual(semaphore.waiting, 0)


def _note(permit: Release, key: str, order: list[str]) -> None:
    order.append(key)
    permit()
