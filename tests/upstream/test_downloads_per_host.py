"""At most so many fetches from a host at once."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from contentcache.aio.fair_semaphore import Release, SemaphorePerKey
from contentcache.config.model import Upstream
from contentcache.core.errors import OriginRefused, UpstreamBroken
from contentcache.upstream.answers import Answer
from contentcache.upstream.registry import Registry
from tests.delivery.in_memory import LARGE, REPOSITORY, InMemoryCache, InMemoryCacheTestCase, registry_of
from tests.upstream.test_registry import ONE, TWO, RegistryTestCase


def acquired(per_host: SemaphorePerKey[str], host: str = "a") -> Deferred[Release]:
    """Somebody who wants a permit."""
    return Deferred.fromCoroutine(per_host.acquire(host))


class FetchesTests(RegistryTestCase):
    """The bodies of blobs."""

    def make(self, auth: Any = None, **options: Any) -> None:
        """Everything anew, with one host and one permit."""
        super().make(auth, **options)
        self.per_host: SemaphorePerKey[str] = SemaphorePerKey(1)
        upstream = Upstream(ONE, (ONE,))
        self.registry = registry_of(upstream, self.wire, self.clock, lambda: 1e9, self.per_host)

    def assert_free(self) -> None:
        """The permit is free."""
        self.successResultOf(acquired(self.per_host, ONE))()

    def test_until_the_body_has_ended(self) -> None:
        """A permit is held until the body was read, was abandoned, was cut off or has stalled."""
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
        """A client that leaves, waiting for the permit or for the head, holds no permit."""
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
        other: Registry = registry_of(
            Upstream(TWO, (ONE,)), self.wire, self.clock, lambda: 1e9, self.per_host
        )
        answer = self.successResultOf(self.ask())
        waiting: Deferred[Answer] = Deferred.fromCoroutine(other.ask(self.request()))
        self.assertNoResult(waiting)
        answer.abandon()
        self.successResultOf(waiting).abandon()

    def test_wait_is_no_stall(self) -> None:
        """To wait for a permit takes nothing off the time that an upstream has."""
        answer = self.successResultOf(self.ask())
        waiting = self.ask()
        self.one.misbehave("slow", seconds=20.0)
        self.clock.advance(29)
        answer.abandon()
        self.clock.advance(20)
        self.successResultOf(waiting).abandon()


class WholeCacheTests(InMemoryCacheTestCase):
    """Clients of fetches that wait for one another."""

    def cache_of(self, count: int, **options: Any) -> InMemoryCache:
        cache = self.make_cache(fetchesperhost=2, **options)
        self.blobs = [LARGE + bytes([number]) for number in range(count)]
        self.digests = [cache.origin.put_blob(REPOSITORY, blob) for blob in self.blobs]
        return cache

    def test_all_get_theirs(self) -> None:
        """Many blobs at once: never more than two bodies are open, and every client gets its own, in turn."""
        cache = self.cache_of(9)
        cache.origin.misbehave("stall", at=1000)
        clients = [cache.pull(digest) for digest in self.digests]
        for number in range(0, 9, 2):
            self.assertEqual(cache.origin.count("GET"), min(9, number + 2))
            self.assertLessEqual(len(cache.wire.open), 2)
            cache.origin.release()
            cache.later(1)
        for client, blob in zip(clients, self.blobs, strict=True):
            self.assertWhole(client, blob)

    def test_clients_that_leave(self) -> None:
        """Clients that leave while their blob waits take no permit with them."""
        cache = self.cache_of(4)
        cache.origin.misbehave("stall", at=1000, times=2)
        clients = [cache.pull(digest) for digest in self.digests]
        for client in clients[2:]:
            client.leave()
        cache.origin.release()
        cache.later(1)
        self.assertWhole(clients[0], self.blobs[0])
        self.assertWhole(clients[1], self.blobs[1])
        self.assertWhole(cache.pull(self.digests[3]), self.blobs[3])
