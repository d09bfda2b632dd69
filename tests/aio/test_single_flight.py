"""Tests for :mod:`contentcache.aio.single_flight`."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from contentcache.aio.single_flight import SingleFlight


class SingleFlightTests(SynchronousTestCase):
    """Calls by key."""

    def setUp(self) -> None:
        self.flight: SingleFlight[str, int] = SingleFlight()
        self.calls: list[Deferred[int]] = []

    def call(self) -> Deferred[int]:
        """A call that ends when the test says so."""
        self.calls.append(Deferred())
        return self.calls[-1]

    def run_one(self, key: str = "a") -> Deferred[int]:
        """A caller."""
        return Deferred.fromCoroutine(self.flight.run(key, self.call))

    def test_shared(self) -> None:
        """Callers with one key share a call and its result; another key has its own."""
        first, second, other = self.run_one(), self.run_one(), self.run_one("b")
        self.assertEqual(len(self.calls), 2)
        self.assertIn("a", self.flight)
        self.calls[0].callback(5)
        self.assertEqual((self.successResultOf(first), self.successResultOf(second)), (5, 5))
        self.assertNoResult(other)
        self.assertNotIn("a", self.flight)

    def test_anew(self) -> None:
        """After its end the next caller starts a new call."""
        first = self.run_one()
        self.calls[0].callback(1)
        self.successResultOf(first)
        second = self.run_one()
        self.calls[1].callback(2)
        self.assertEqual(self.successResultOf(second), 2)

    def test_failure(self) -> None:
        """Every waiter gets the exception, and the next caller starts anew."""
        waiters = [self.run_one(), self.run_one()]
        self.calls[0].errback(ValueError("no"))
        for waiter in waiters:
            self.failureResultOf(waiter, ValueError)
        self.assertNotIn("a", self.flight)

    def test_cancelled(self) -> None:
        """A caller that is cancelled takes the result from nobody, not even the one that started the call."""
        first, second = self.run_one(), self.run_one()
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.calls[0].callback(3)
        self.assertEqual(self.successResultOf(second), 3)

    def test_all_cancelled(self) -> None:
        """A call goes on without waiters, and its late failure is nobody's error."""
        first = self.run_one()
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.assertIn("a", self.flight)
        self.calls[0].errback(ValueError("late"))
        self.assertNotIn("a", self.flight)

    def test_at_once(self) -> None:
        """A call that has its result at once leaves nothing behind."""
        result = Deferred.fromCoroutine(self.flight.run("a", lambda: succeed(7)))
        self.assertEqual(self.successResultOf(result), 7)
        self.assertNotIn("a", self.flight)

    def test_raises_at_once(self) -> None:
        """A call that raises before it awaits anything is a failure of its callers, and no more."""

        def call() -> Deferred[int]:
            raise KeyError("x")

        self.failureResultOf(Deferred.fromCoroutine(self.flight.run("a", call)), KeyError)
        self.assertNotIn("a", self.flight)

    def test_waiter_cancels_another(self) -> None:
        """A waiter that cancels another one as it is notified breaks nothing."""
        first, second = self.run_one(), self.run_one()
        first.addCallback(lambda _result: second.cancel())
        self.calls[0].callback(1)
        self.failureResultOf(second, CancelledError)
        self.successResultOf(first)
