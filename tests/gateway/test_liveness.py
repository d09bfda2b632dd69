"""Tests for :mod:`contentcache.gateway.liveness`."""

from __future__ import annotations

from uuid import UUID

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from contentcache.aio.threads import at_once
from contentcache.gateway.liveness import FRESH, Liveness
from contentcache.gateway.probe import ProbeError
from tests.gateway.directory_suite import cache
from tests.gateway.memory_directory import MemoryDirectory

ONE = UUID(int=1)


class Slow:
    """A probe whose outcomes a test sets."""

    def __init__(self) -> None:
        self.waiting: dict[str, Deferred[None]] = {}
        self.asked = 0

    async def __call__(self, host: str, /) -> None:
        self.asked += 1
        self.waiting[host] = Deferred()
        await self.waiting[host]

    def answer(self, number: int = 1, error: Exception | None = None) -> None:
        """End the running probe of a cache."""
        waiting = self.waiting.pop(cache(number).host)
        if error is None:
            waiting.callback(None)
        else:
            waiting.errback(error)


class LivenessTestCase(SynchronousTestCase):
    """Has caches, and probes that wait for the test."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.probe = Slow()
        self.directory = MemoryDirectory()
        self.directory.add(cache(1))
        self.liveness = self.make()

    def make(self, **more: int) -> Liveness:
        liveness = Liveness(
            self.directory,
            self.probe,
            run=at_once,
            timer=self.clock,
            wall=lambda: 1000 + self.clock.seconds(),
            **more,
        )
        self.addCleanup(liveness.stop)
        return liveness


class LivenessTests(LivenessTestCase):
    """Rounds of probes."""

    def test_hysteresis(self) -> None:
        """
        No client is sent to a cache that was never probed; the first success makes it alive, one failure dead,
        two successes in a row alive again.
        """
        self.assertFalse(self.liveness.is_alive(ONE))
        self.liveness.start()
        self.assertFalse(self.liveness.is_alive(ONE))
        for good, alive in (
            (True, True),
            (True, True),
            (False, False),
            (True, False),
            (False, False),
            (True, False),
            (True, True),
            (False, False),
        ):
            self.probe.answer(1, None if good else ProbeError("no answer"))
            self.assertEqual(self.liveness.is_alive(ONE), alive)
            self.clock.advance(10)

    def test_states(self) -> None:
        """A state has since when, and why."""
        self.liveness.start()
        self.clock.advance(3)
        self.probe.answer(1, ProbeError("no answer"))
        self.clock.advance(7)
        self.clock.advance(1)
        self.probe.answer(1, ProbeError("it closes the connection"))
        state = self.liveness.states[ONE]
        self.assertEqual(
            (state.alive, state.since, state.probed, state.why),
            (False, 1003, 1011, "it closes the connection"),
        )
        (host,) = self.liveness.hosts().values()
        self.assertEqual(
            (host.healthy, host.since, host.reason, host.last_success, host.next_try),
            (False, 1003, "it closes the connection", None, 1021),
        )
        self.assertIsNone(host.round_trip_seconds)
        for seconds in (0.25, 0.5):
            self.clock.advance(10)
            self.clock.advance(seconds)
            self.probe.answer()
        self.clock.advance(10)
        self.probe.answer(1, ProbeError("no answer"))
        (host,) = self.liveness.hosts().values()
        self.assertEqual(
            (host.healthy, host.since, host.last_success, host.round_trip_seconds),
            (False, 1041.75, 1031.75, 0.5),
        )

    def test_a_round_waits(self) -> None:
        """A round begins ten seconds after the last one began, and never before that one has ended."""
        self.liveness.start()
        self.clock.advance(9)
        self.probe.answer()
        self.assertEqual(self.probe.waiting, {})
        self.clock.advance(1)
        self.assertEqual(len(self.probe.waiting), 1)
        self.clock.advance(25)
        self.probe.answer()
        self.clock.advance(0)
        self.assertEqual(len(self.probe.waiting), 1)

    def test_bounded(self) -> None:
        """No more probes run at once than ``concurrency``."""
        for number in range(2, 6):
            self.directory.add(cache(number))
        liveness = self.make(concurrency=2)
        liveness.start()
        self.assertEqual(len(self.probe.waiting), 2)
        self.probe.answer(1)
        self.assertEqual(set(self.probe.waiting), {cache(2).host, cache(3).host})

    def test_directory_changes(self) -> None:
        """A removed cache is forgotten, a new one probed; a database that fails changes nothing."""
        self.liveness.start()
        self.probe.answer()
        self.directory.remove(ONE)
        self.directory.add(cache(2))
        self.clock.advance(10)
        self.assertFalse(self.liveness.is_alive(ONE))
        self.probe.answer(2)

        def fail() -> None:
            raise OSError(5, "broken")

        self.patch(self.directory, "caches", fail)
        self.clock.advance(10)
        self.assertTrue(self.liveness.is_alive(UUID(int=2)))
        self.probe.answer(2)

    def test_defect(self) -> None:
        """A defect of a probe is logged, counts as a failure, and the rounds go on."""
        self.liveness.start()
        self.probe.answer(1, ZeroDivisionError())
        self.assertFalse(self.liveness.is_alive(ONE))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.clock.advance(10)
        self.assertEqual(len(self.probe.waiting), 1)

    def test_stop(self) -> None:
        """After the stop no probe is running and none is scheduled."""
        for waiting in (True, False):
            self.liveness = self.make()
            self.liveness.start()
            if not waiting:
                self.probe.answer()
            self.liveness.stop()
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_look_at(self) -> None:
        """An administrator's probe runs at once, and counts like any other."""
        looking = Deferred.fromCoroutine(self.liveness.check(cache(1)))
        self.probe.answer()
        self.assertTrue(self.successResultOf(looking).alive)
        self.assertTrue(self.liveness.is_alive(ONE))


class SentTests(LivenessTestCase):
    """Whether a client may be sent to a cache whose last success was a while ago."""

    def setUp(self) -> None:
        super().setUp()
        self.liveness.start()
        self.probe.answer()

    def ask(self) -> Deferred[bool]:
        """For a client."""
        return Deferred.fromCoroutine(self.liveness.is_answering(cache(1)))

    def test_fresh(self) -> None:
        """
        Up to two seconds after a success a client is sent at once; after one the cache is probed again,
        without anybody waiting.
        """
        self.clock.advance(1)
        self.assertTrue(self.successResultOf(self.ask()))
        self.assertEqual(self.probe.waiting, {})
        self.clock.advance(0.9)
        self.assertTrue(self.successResultOf(self.ask()))
        self.assertEqual(len(self.probe.waiting), 1)
        self.probe.answer()
        self.clock.advance(1.9)
        self.assertTrue(self.successResultOf(self.ask()))

    def test_single_flight(self) -> None:
        """Where the last success is older, all clients wait for one probe; the round does, too."""
        self.clock.advance(3)
        asking = [self.ask() for _ in range(5)]
        self.assertEqual(self.probe.asked, 2)
        self.probe.answer()
        self.assertEqual([self.successResultOf(each) for each in asking], [True] * 5)
        self.clock.advance(6.9)
        late = self.ask()
        self.clock.advance(0.1)
        self.assertEqual(self.probe.asked, 3)
        self.probe.answer()
        self.assertTrue(self.successResultOf(late))

    def test_killed(self) -> None:
        """No client is sent to a cache that was killed meanwhile, and none waits for it again."""
        self.clock.advance(3)
        asking = [self.ask() for _ in range(3)]
        self.probe.answer(1, ProbeError("it cannot be connected to"))
        self.assertEqual([self.successResultOf(each) for each in asking], [False] * 3)
        self.assertFalse(self.successResultOf(self.ask()))
        self.assertEqual((self.probe.asked, self.probe.waiting), (2, {}))

    def test_window(self) -> None:
        """
        Clients are sent to a cache that dies just after a success for two seconds and not longer, although a
        probe is running by then; and not before two successes again.
        """
        self.clock.advance(FRESH - 0.5)
        self.assertTrue(self.successResultOf(self.ask()))
        self.assertEqual(self.probe.asked, 2)
        self.clock.advance(0.5)
        self.assertTrue(self.successResultOf(self.ask()))
        self.clock.advance(0.01)
        late = self.ask()
        self.assertNoResult(late)
        self.probe.answer(1, ProbeError("it cannot be connected to"))
        self.assertFalse(self.successResultOf(late))
        for _ in range(5):
            self.clock.advance(FRESH / 2)
            self.assertFalse(self.successResultOf(self.ask()))
        self.assertEqual(self.probe.asked, 2)

    def test_silent(self) -> None:
        """A client that waits for a silent cache is served directly after two seconds; the probe goes on."""
        self.clock.advance(3)
        asking = self.ask()
        self.clock.advance(1.9)
        self.assertNoResult(asking)
        self.clock.advance(0.2)
        self.assertFalse(self.successResultOf(asking))
        self.assertEqual(len(self.probe.waiting), 1)
        self.probe.answer()
        self.assertTrue(self.successResultOf(self.ask()))

    def test_client_leaves(self) -> None:
        """A client that disconnects does not cancel the probe that others wait for."""
        self.clock.advance(3)
        asking = [self.ask() for _ in range(3)]
        asking[0].cancel()
        self.failureResultOf(asking[0], CancelledError)
        self.probe.answer()
        self.assertEqual([self.successResultOf(each) for each in asking[1:]], [True, True])

    def test_others(self) -> None:
        """No client is sent to a cache that is unknown, has moved, or is dead, and these are not probed."""
        for other in (cache(2), evolve(cache(1), host="https://moved.example")):
            answer = Deferred.fromCoroutine(self.liveness.is_answering(other))
            self.assertFalse(self.successResultOf(answer))
        self.assertEqual(self.probe.waiting, {})

    def test_stop_while_waiting(self) -> None:
        """At the stop waiting clients are served directly, and nothing is left."""
        self.clock.advance(3)
        asking = self.ask()
        self.liveness.stop()
        self.assertFalse(self.successResultOf(asking))
        self.assertFalse(self.successResultOf(self.ask()))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_database_fails(self) -> None:
        """While the caches cannot be listed those known so far are probed all the same."""

        def fail() -> None:
            raise OSError(5, "broken")

        self.patch(self.directory, "caches", fail)
        self.clock.advance(10)
        self.probe.answer(1, ProbeError("no answer"))
        self.assertFalse(self.liveness.is_alive(ONE))
