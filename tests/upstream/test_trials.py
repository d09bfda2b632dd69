"""
One request at a time to a host that is in doubt.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from contentcache.config.model import Upstream
from contentcache.core.errors import OriginRefused, UpstreamBroken, UpstreamTimeout, UpstreamUnavailable
from contentcache.core.rotation import Rotation
from contentcache.upstream.answers import Answer
from contentcache.upstream.trials import Trials
from tests.delivery.house import registry_of
from tests.upstream.test_registry import ONE, TWO, RegistryTestCase


class TrialsTests(SynchronousTestCase):
    """
    Who goes, who waits, and what they hear. ``went`` are the requests that went out: how to say that the
    host has answered, and how to end them.
    """

    def setUp(self) -> None:
        self.rotation = Rotation(["a"])
        self.trials = Trials(self.rotation)
        self.went: list[tuple[Any, Deferred[str]]] = []
        self.rotation.failed("a", 0.0)

    def ask(self) -> Deferred[str]:
        """A request to the host."""

        async def asking(heard: Any) -> str:
            ending: Deferred[str] = Deferred()
            self.went.append((heard, ending))
            return await ending

        return Deferred.fromCoroutine(self.trials.ask("a", asking))

    def end(self, number: int, result: Any = "answer") -> None:
        """A request ends."""
        ending = self.went[number][1]
        (ending.errback if isinstance(result, Exception) else ending.callback)(result)

    def test_well(self) -> None:
        """Nobody waits for a host that is well."""
        self.trials.answered("a")
        asking = [self.ask() for _ in range(3)]
        for number in range(3):
            self.end(number)
        self.assertEqual([self.successResultOf(each) for each in asking], ["answer"] * 3)

    def test_one_at_a_time(self) -> None:
        """One goes; where nothing comes the others have its error, each one of its own, and never went."""
        first, second, third = (self.ask() for _ in range(3))
        self.assertEqual(len(self.went), 1)
        self.end(0, UpstreamTimeout("a did not answer", headers={"X": "y"}))
        errors = [self.failureResultOf(each, UpstreamTimeout).value for each in (first, second, third)]
        self.assertEqual({str(error) for error in errors}, {"a did not answer"})
        self.assertEqual([getattr(error, "headers") for error in errors], [{"X": "y"}] * 3)  # noqa: B009
        self.assertEqual(len({id(error) for error in errors}), 3)
        self.assertEqual(len(self.went), 1)
        self.ask()
        self.assertEqual(len(self.went), 2)

    def test_heard(self) -> None:
        """As soon as the host has answered anything the others go, whatever becomes of the trial."""
        asking = [self.ask() for _ in range(3)]
        self.went[0][0]()
        self.assertEqual(len(self.went), 3)
        self.end(0, UpstreamBroken("storage is broken"))
        self.failureResultOf(asking[0], UpstreamBroken)
        for number in (1, 2):
            self.end(number)
            self.successResultOf(asking[number])

    def test_answered_to_somebody_else(self) -> None:
        """An answer to a request from before the failure is as good."""
        asking = [self.ask() for _ in range(2)]
        self.trials.answered("a")
        self.assertEqual(len(self.went), 2)
        self.end(1)
        self.successResultOf(asking[1])
        self.end(0, UpstreamTimeout("a did not answer"))
        self.failureResultOf(asking[0], UpstreamTimeout)

    def test_trial_is_broken_off(self) -> None:
        """Where the one who tries leaves, the next one tries; who leaves while waiting is forgotten."""
        first, second, third, fourth = (self.ask() for _ in range(4))
        third.cancel()
        self.failureResultOf(third, CancelledError)
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.assertEqual(len(self.went), 2)
        self.end(1)
        self.successResultOf(second)
        self.assertEqual(len(self.went), 3)
        self.end(2)
        self.successResultOf(fourth)

    def test_defect(self) -> None:
        """A defect of ours is nobody else's."""
        first, second = self.ask(), self.ask()
        self.end(0, ZeroDivisionError())
        self.failureResultOf(first, ZeroDivisionError)
        self.end(1)
        self.successResultOf(second)


class CircuitTests(RegistryTestCase):
    """
    The same before real requests, on a clock.
    """

    def alone(self) -> None:
        """A registry with one host, which swallows everything, and has failed once."""
        self.make()
        self.registry = registry_of(Upstream(ONE, (ONE,)), self.wire, self.clock, lambda: 1e9)
        self.one.misbehave("stall", at=-1)
        first = self.ask()
        self.clock.advance(30)
        self.failureResultOf(first, UpstreamTimeout)

    def test_costs_the_timeout_once(self) -> None:
        """
        A dead host costs its timeout once: all who come during a trial fail with it, whenever they came, and
        whether or not its set-back was over by then.
        """
        self.alone()
        asking = []
        for _ in range(30):
            asking.append(self.ask())
            self.clock.advance(1)
        self.assertEqual(self.one.count(), 2)
        for each in asking:
            self.failureResultOf(each, UpstreamTimeout)
        self.assertEqual(dict(self.registry.standing()), {ONE: False})

    def test_back_at_once(self) -> None:
        """The first request to a host that is back is answered, set back or not, and all others with it."""
        self.alone()
        trial, others = self.ask(), [self.ask() for _ in range(5)]
        self.one.behave()
        self.one.release()
        self.successResultOf(trial).abandon()
        for each in others:
            self.successResultOf(each).abandon()
        self.assertEqual(dict(self.registry.standing()), {ONE: True})
        self.alone()
        self.one.behave()
        self.answered()

    def test_any_answer_is_one(self) -> None:
        """A host that answers 5xx or 4xx to one is asked for the others, whose questions are their own."""
        for status, kind in ((500, UpstreamBroken), (503, UpstreamUnavailable), (404, OriginRefused)):
            self.alone()
            self.one.behave()
            self.one.misbehave("status", status=status, times=1)
            self.one.misbehave("slow", seconds=5.0, times=1)
            trial, other = self.ask(), self.ask()
            self.clock.advance(5)
            self.failureResultOf(trial, kind)
            self.successResultOf(other).abandon()

    def test_slow_storage_is_not_the_registry(self) -> None:
        """A registry that redirects is there, even if its storage swallows everything."""
        self.alone()
        self.one.behave()
        self.one.misbehave("redirect", path="/v2/*", method="GET", to="https://storage.example/x")
        self.storage.misbehave("stall", at=-1)
        fetching = self.ask()
        self.answered("HEAD")
        self.clock.advance(30)
        self.failureResultOf(fetching, UpstreamTimeout)

    def test_others_go_first(self) -> None:
        """While a host is tried the others are asked, also when its set-back is over."""
        self.one.misbehave("stall", at=-1)
        first = self.ask()
        self.clock.advance(30)
        self.successResultOf(first).abandon()
        self.clock.advance(1)
        asking = [self.ask() for _ in range(4)]
        (trial,) = [each for each in asking if not each.called]
        found: list[Answer] = [self.successResultOf(each) for each in asking if each is not trial]
        self.assertEqual([answer.host for answer in found], [TWO] * 3)
        for answer in found:
            answer.abandon()
        self.assertEqual(self.one.count(), 2)
        self.clock.advance(30)
        self.successResultOf(trial).abandon()
