"""
At most so many fetches from a host at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from contentcache.config.model import Upstream
from contentcache.core.errors import OriginRefused, UpstreamBroken
from contentcache.upstream.answers import Answer
from contentcache.upstream.registry import Registry
from contentcache.upstream.slots import Slots
from tests.delivery.house import LARGE, REPOSITORY, House, HouseTestCase, registry_of
from tests.upstream.test_registry import ONE, TWO, RegistryTestCase


def taken(slots: Slots, host: str = "a") -> Deferred[Callable[[], None]]:
    """Somebody who wants a slot."""
    return Deferred.fromCoroutine(slots.take(host))


class SlotsTests(SynchronousTestCase):
    """
    Who has one, and who waits.
    """

    def test_first_come(self) -> None:
        """Slots go to those who wait in their order, one for one, host by host."""
        slots = Slots(2)
        first, second, third, fourth = (taken(slots) for _ in range(4))
        give_back = self.successResultOf(first)
        self.successResultOf(second)
        self.assertNoResult(third)
        self.successResultOf(taken(slots, "b"))
        give_back()
        give_back()
        self.successResultOf(third)
        self.assertNoResult(fourth)

    def test_no_bound(self) -> None:
        """Without a bound nobody waits."""
        slots = Slots()
        for give_back in [self.successResultOf(taken(slots)) for _ in range(1000)]:
            give_back()

    def test_who_leaves(self) -> None:
        """Whoever leaves the queue loses nobody a slot."""
        slots = Slots(1)
        give_back = self.successResultOf(taken(slots))
        second, third = taken(slots), taken(slots)
        second.cancel()
        self.failureResultOf(second, CancelledError)
        give_back()
        self.successResultOf(third)()
        self.successResultOf(taken(slots))

    def test_a_thousand_in_a_row(self) -> None:
        """Those who are done at once do not make the stack deeper and deeper."""
        slots = Slots(1)
        give_back = self.successResultOf(taken(slots))
        done: list[None] = []

        async def brief() -> None:
            done.append((await slots.take("a"))())

        for _ in range(5000):
            Deferred.fromCoroutine(brief())
        give_back()
        self.assertEqual(len(done), 5000)
        self.successResultOf(taken(slots))


class FetchesTests(RegistryTestCase):
    """
    The bodies of blobs.
    """

    def make(self, auth: Any = None, **options: Any) -> None:
        """Everything anew, with one host and one slot."""
        super().make(auth, **options)
        self.slots = Slots(1)
        upstream = Upstream(ONE, (ONE,))
        self.registry = registry_of(upstream, self.wire, self.clock, lambda: 1e9, self.slots)

    def assert_free(self) -> None:
        """The slot is there."""
        self.successResultOf(taken(self.slots, ONE))()

    def test_until_the_body_has_ended(self) -> None:
        """A slot is held until the body was read, was abandoned, was cut off or has stalled."""
        for manner in ({}, {"name": "reset", "at": 1}, {"name": "stall", "at": 1}):
            self.make()
            if manner:
                self.one.misbehave(**manner)  # type: ignore[arg-type]
            answer = self.successResultOf(self.ask())
            other = self.ask()
            self.assertNoResult(other)
            self.assertEqual(self.one.count(), 1)
            self.one.behave()
            reading = Deferred.fromCoroutine(answer.read(100))
            reading.addErrback(lambda _failure: None)
            self.clock.advance(30)
            self.successResultOf(other).abandon()
            self.assert_free()

    def test_no_answer(self) -> None:
        """A refusal and a failure give it back."""
        self.one.misbehave("status", status=403, times=1)
        self.failureResultOf(self.ask(), OriginRefused)
        self.assert_free()
        self.one.misbehave("status", status=500, times=1)
        self.failureResultOf(self.ask(), UpstreamBroken)
        self.assert_free()

    def test_who_leaves(self) -> None:
        """A client that leaves, waiting for the slot or for the head, holds none."""
        self.one.misbehave("stall", at=-1)
        first, second = self.ask(), self.ask()
        second.cancel()
        self.failureResultOf(second, CancelledError)
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.assert_free()

    def test_questions_need_none(self) -> None:
        """Whoever only asks whether a blob is there waits for nobody."""
        answer = self.successResultOf(self.ask())
        self.answered("HEAD")
        self.answered("GET", follow=False)
        self.answered("GET", range="bytes=0-0")
        answer.abandon()

    def test_shared_by_origins(self) -> None:
        """A next hop that leads to two origins is one host."""
        other: Registry = registry_of(Upstream(TWO, (ONE,)), self.wire, self.clock, lambda: 1e9, self.slots)
        answer = self.successResultOf(self.ask())
        waiting: Deferred[Answer] = Deferred.fromCoroutine(other.ask(self.request()))
        self.assertNoResult(waiting)
        answer.abandon()
        self.successResultOf(waiting).abandon()

    def test_wait_is_no_stall(self) -> None:
        """To wait for a slot takes nothing off the time that an upstream has."""
        answer = self.successResultOf(self.ask())
        waiting = self.ask()
        self.one.misbehave("slow", seconds=20.0)
        self.clock.advance(29)
        answer.abandon()
        self.clock.advance(20)
        self.successResultOf(waiting).abandon()


class HouseTests(HouseTestCase):
    """
    Clients of fetches that wait for one another.
    """

    def house_of(self, count: int, **options: Any) -> House:
        house = self.house(fetchesperhost=2, **options)
        self.blobs = [LARGE + bytes([number]) for number in range(count)]
        self.digests = [house.origin.put_blob(REPOSITORY, blob) for blob in self.blobs]
        return house

    def test_all_get_theirs(self) -> None:
        """Many blobs at once: never more than two bodies are open, and every client gets its own, in turn."""
        house = self.house_of(9)
        house.origin.misbehave("stall", at=1000)
        clients = [house.pull(digest) for digest in self.digests]
        for number in range(0, 9, 2):
            self.assertEqual(house.origin.count("GET"), min(9, number + 2))
            self.assertLessEqual(len(house.wire.open), 2)
            house.origin.release()
            house.later(1)
        for client, blob in zip(clients, self.blobs, strict=True):
            self.assertWhole(client, blob)

    def test_clients_that_leave(self) -> None:
        """Clients that leave while their blob waits take no slot with them."""
        house = self.house_of(4)
        house.origin.misbehave("stall", at=1000, times=2)
        clients = [house.pull(digest) for digest in self.digests]
        for client in clients[2:]:
            client.leave()
        house.origin.release()
        house.later(1)
        self.assertWhole(clients[0], self.blobs[0])
        self.assertWhole(clients[1], self.blobs[1])
        self.assertWhole(house.pull(self.digests[3]), self.blobs[3])
