"""Requests that came through other caches, which may be waiting for what this cache is waiting for."""

from __future__ import annotations

from attrs import evolve
from twisted.internet.defer import Deferred

from contentcache.config.model import Upstream
from contentcache.core.errors import LoopDetected
from tests.delivery.in_memory import LARGE, REPOSITORY, Client, InMemoryCache, InMemoryCacheTestCase

ONE = "https://one.example"
OURS = "1.1 contentcache-me"
OTHERS, THIRD = f"1.1 contentcache-b, {OURS}", f"1.1 contentcache-c, {OURS}"


class LoopTests(InMemoryCacheTestCase):
    """What is waited for, and what is asked on its own."""

    def setUp(self) -> None:
        super().setUp()
        self.cache = self.make_cache()
        self.digest = self.cache.origin.put_blob(REPOSITORY, LARGE)

    def pull(self, via: str, *, takes: bool = True, cache: InMemoryCache | None = None) -> Client:
        """A client whose request came this way."""
        cache = cache or self.cache
        asking = evolve(cache.asking(self.digest), via=via)
        return Client(cache.blob_service.get(asking), (0, None), takes=takes)

    def test_waits_for_nobody(self) -> None:
        """
        While a download's response header is out, a request that came through a cache is asked on its own: a
        508 is its answer at once, though the download goes on waiting.
        """
        self.cache.origin.misbehave("stall", method="GET", at=-1, times=1)
        client = self.pull(OURS)
        self.cache.origin.misbehave("status", status=508)
        through = self.pull(OTHERS)
        self.assertEqual(type(through.outcome), LoopDetected)
        self.assertEqual(client.outcome, None)
        self.cache.origin.behave()
        self.cache.origin.release()
        self.assertWhole(client, LARGE)

    def test_known_way(self) -> None:
        """Where the caches behind an upstream are known and it is none of them, it waits like any other."""
        self.cache.registries[0].behind.learn(ONE, ["1.1 contentcache-c"])
        self.cache.origin.misbehave("slow", method="GET", seconds=1.0)
        client, through = self.pull(OURS), self.pull(OTHERS)
        self.cache.later(2)
        self.assertWhole(client, LARGE)
        self.assertWhole(through, LARGE)
        self.assertEqual(self.cache.origin.count("GET"), 1)

    def test_learns_and_waits(self) -> None:
        """The answer to its own question tells which caches are behind: then it waits for the download."""
        self.cache.origin.misbehave("slow", method="GET", seconds=1.0)
        client, through = self.pull(OURS), self.pull(OTHERS)
        self.cache.later(2)
        self.assertWhole(client, LARGE)
        self.assertWhole(through, LARGE)
        self.assertEqual((self.cache.origin.count("GET"), self.cache.origin.count("HEAD")), (1, 1))

    def test_known_loop(self) -> None:
        """A request from a cache behind the upstream shares nothing; it is passed through if answered."""
        self.cache.registries[0].behind.learn(ONE, ["1.1 contentcache-b"])
        self.cache.origin.misbehave("slow", method="GET", seconds=1.0)
        client, through = self.pull(OURS), self.pull(OTHERS)
        self.cache.later(3)
        self.assertWhole(client, LARGE)
        self.assertWhole(through, LARGE)
        vias = [asked.headers["via"] for asked in self.cache.origin.asked("GET")]
        self.assertEqual(vias, [OURS, OTHERS])

    def test_questions_are_not_shared_either(self) -> None:
        """What is asked with HEAD is shared by those who came the same way only."""
        self.cache.origin.misbehave("slow", method="HEAD", seconds=1.0)
        asking = self.cache.asking(self.digest)
        for via in (OURS, OURS, OTHERS, THIRD, OTHERS):
            Deferred.fromCoroutine(
                self.cache.authorization.ask_origin(evolve(asking, via=via), with_body=False)
            )
        self.assertEqual(self.cache.origin.count("HEAD"), 3)
        self.cache.later(2)

    def test_a_loop_is_nobody_elses(self) -> None:
        """
        A download that began with a request that came in a circle: that one gets 508, and whoever came
        another way is served.
        """
        self.cache.registries[0].behind.learn(ONE, ["1.1 contentcache-c"])
        self.cache.origin.misbehave("slow", seconds=1.0, times=1)
        self.cache.origin.misbehave("status", status=508, times=1)
        circle = self.pull(OTHERS)
        client = self.pull(OURS)
        self.cache.later(3)
        self.assertEqual(type(circle.outcome), LoopDetected)
        self.assertWhole(client, LARGE)
        self.assertTrue(all(well for _, well in self.cache.registries[0].health()))

    def test_next_host(self) -> None:
        """A host that has found a loop is not at fault, and the download goes on at the next one."""
        two = "https://two.example"
        self.cache = self.make_cache(Upstream(ONE, (ONE, two)))
        for origin in self.cache.origins.values():
            self.digest = origin.put_blob(REPOSITORY, LARGE)
        self.cache.origin.misbehave("status", status=508)
        self.assertWhole(self.pull(OURS), LARGE)
        self.assertTrue(all(well for _, well in self.cache.registries[0].health()))
