"""What breaks on the way, and how the fetch goes on."""

from __future__ import annotations

from typing import Any

from twisted.logger import capturedLogs

from contentcache.config.model import Upstream
from contentcache.core.credentials import ANONYMOUS
from contentcache.core.errors import UpstreamBroken, UpstreamTimeout, UpstreamUnavailable
from contentcache.delivery.origin_authorization import Decision
from contentcache.delivery.shared_download import HELD_BACK
from tests.delivery.in_memory import LARGE, ORIGIN, REPOSITORY, Client, InMemoryCache, InMemoryCacheTestCase

HALF = len(LARGE) // 2
URLS = ("https://one.example", "https://two.example", "https://three.example")
OFFSETS = (0, 1, 1000, HALF, len(LARGE) - HELD_BACK, len(LARGE) - 1)


class FailoverTests(InMemoryCacheTestCase):
    """The next host goes on where the one before it stopped, and clients do not notice."""

    def two(self, **options: Any) -> InMemoryCache:
        """A cache with two ways to the origin, both with the blob."""
        cache = self.make_cache(Upstream(URLS[0], URLS[:2]), **options)
        for origin in cache.origins.values():
            self.digest = origin.put_blob(REPOSITORY, LARGE)
        self.second = cache.origins["two.example"]
        return cache

    def test_before_the_first_byte(self) -> None:
        """A host that is down, resets, or answers 5xx before its head costs the client nothing."""
        cases: list[dict[str, Any]] = [{"name": "reset", "at": -1}, {"name": "status", "status": 500}, {}]
        for manner in cases:
            cache = self.two()
            if manner:
                cache.origin.misbehave(**manner)
            else:
                cache.wire.down.add("one.example")
            self.assertWhole(cache.pull(self.digest), LARGE)
            self.assertNotIn("range", self.second.requests[0].headers)

    def test_in_the_middle(self) -> None:
        """A reset, or a short body under its full length, at any byte: the next host has the rest."""
        for name in ("reset", "short"):
            for at in OFFSETS:
                cache = self.two()
                cache.origin.misbehave(name, at=at)
                client, other = cache.pull(self.digest), cache.pull(self.digest)
                self.assertWhole(client, LARGE)
                self.assertWhole(other, LARGE)
                asked = self.second.requests[0].headers.get("range")
                self.assertEqual(asked, f"bytes={at}-" if at else None, (name, at))

    def test_named_in_the_log(self) -> None:
        """The line about an unhealthy host names what it did not deliver: repository, and digest or tag."""
        for at in (-1, HALF):
            cache = self.two()
            cache.origin.misbehave("reset", at=at)
            with capturedLogs() as events:
                self.assertWhole(cache.pull(self.digest), LARGE)
            (event,) = (each for each in events if each["log_format"] == "upstream unhealthy")
            self.assertEqual((event["repository"], event["tag"]), (REPOSITORY, None))
            self.assertEqual(event["digest"], str(self.digest))

    def test_stall(self) -> None:
        """A host that sends nothing for thirty seconds is left for the next, in the head and in the body."""
        for at in (-1, 0, HALF):
            cache = self.two()
            cache.origin.misbehave("stall", at=at)
            client = cache.pull(self.digest)
            cache.later(29)
            self.assertIsNone(client.outcome)
            cache.later(1)
            self.assertWhole(client, LARGE)

    def test_same_host_again(self) -> None:
        """Where there is only one host it is asked again after a pause, from where it stopped."""
        cache = self.make_cache()
        digest = cache.origin.put_blob(REPOSITORY, LARGE)
        cache.origin.misbehave("reset", at=1000, times=3)
        client = cache.pull(digest)
        self.assertIsNone(client.outcome)
        cache.later(5)
        self.assertWhole(client, LARGE)
        ranges = [asked.headers.get("range") for asked in cache.origin.requests]
        self.assertEqual(ranges, [None, "bytes=1000-", "bytes=2000-", "bytes=3000-"])

    def test_whole_to_a_range(self) -> None:
        """A 200 to a range request is read past what is there already."""
        cache = self.two()
        cache.origin.misbehave("reset", at=HALF)
        self.second.misbehave("whole")
        self.assertWhole(cache.pull(self.digest), LARGE)

    def test_other_size(self) -> None:
        """A host that says another size than the one before is passed over, and the next one asked."""
        cache = self.make_cache(Upstream(URLS[0], URLS))
        for origin in cache.origins.values():
            digest = origin.put_blob(REPOSITORY, LARGE)
        cache.origin.misbehave("reset", at=HALF)
        cache.origins["two.example"].misbehave("resized", by=7)
        self.assertWhole(cache.pull(digest), LARGE)

    def test_unsatisfiable(self) -> None:
        """A 416 in the middle of a blob, whatever size it says, is a host to be passed over."""
        cache = self.make_cache(Upstream(URLS[0], URLS))
        for origin in cache.origins.values():
            digest = origin.put_blob(REPOSITORY, LARGE)
        cache.origin.misbehave("reset", at=HALF)
        cache.origins["two.example"].misbehave("unsatisfiable", size=HALF)
        self.assertWhole(cache.pull(digest), LARGE)

    def test_unsatisfiable_at_the_end(self) -> None:
        """A partial file with every byte in it is completed by a 416 that says so."""
        cache = self.make_cache()
        digest = cache.origin.put_blob(REPOSITORY, LARGE)
        partial = cache.store.resume(digest, ORIGIN)
        partial.write(0, LARGE)
        partial.close()
        cache.origin.misbehave("slow", method="GET", seconds=1.0)
        told = Client(cache.blob_service.get(cache.asking(digest), Decision()), (0, None), takes=True)
        untold = cache.pull(digest)
        cache.later(1)
        self.assertWhole(told, LARGE)
        self.assertWhole(untold, LARGE)

    def test_anything_at_the_end(self) -> None:
        """
        A partial file with every byte in it completes its blob whatever the origin says of what follows on
        the last one; whether its clients may have it, the origin is asked.
        """
        for manner in (
            {"name": "status", "status": 400},
            {"name": "status", "status": 404},
            {"name": "status", "status": 500},
            {"name": "unsatisfiable", "size": 5},
            {"name": "reset"},
        ):
            for is_known in (True, False):
                cache = self.make_cache()
                digest = cache.origin.put_blob(REPOSITORY, LARGE)
                partial = cache.store.resume(digest, ORIGIN)
                partial.write(0, LARGE)
                partial.close()
                cache.origin.misbehave(method="GET", path="*/blobs/*", **manner)
                if not is_known:
                    cache.origin.misbehave("status", method="HEAD", status=403)
                client = cache.pull(digest)
                cache.later(60)
                if is_known:
                    self.assertWhole(client, LARGE)
                else:
                    self.assertNotIn(client.outcome, {"whole", "short", None})
                    self.assertEqual(bytes(client.got), b"")
                self.assertIsNotNone(cache.index.blob(digest))

    def test_liar_and_honest_host(self) -> None:
        """What two hosts put together wrong is fetched from one alone, and the honest one not blamed."""
        cache = self.two()
        cache.origin.misbehave("wrong", at=0)
        cache.origin.misbehave("reset", at=HALF, times=1)
        cache.origin.misbehave("slow", seconds=1.0, times=1)
        client = cache.pull(self.digest)
        cache.later(1)
        self.assertEqual(client.outcome, "short")
        again = cache.pull(self.digest)
        self.assertWhole(again, LARGE)
        self.assertTrue(dict(cache.registries[0].health())["https://two.example"])

    def test_doubt_outlives_the_client(self) -> None:
        """A client ended short by a lie leaves; each host is tried alone all the same, for the next one."""
        cache = self.two()
        cache.origin.misbehave("wrong", at=0)
        cache.origin.misbehave("reset", at=HALF, times=1)
        cache.origin.misbehave("slow", seconds=1.0, times=1)
        first = cache.pull(self.digest)
        cache.later(10)
        self.assertEqual(first.outcome, "short")
        asked = cache.origin.count("GET") + self.second.count("GET")
        self.assertWhole(cache.pull(self.digest), LARGE)
        self.assertEqual(cache.origin.count("GET") + self.second.count("GET"), asked)

    def test_sole_source_of_wrong_bytes_is_ejected(self) -> None:
        """A host that delivered every byte of a wrong blob is ejected, and another one asked from zero."""
        cache = self.two()
        cache.origin.misbehave("wrong", at=-1)
        waiting = cache.pull(self.digest, takes=False)
        waiting.take()
        self.assertWhole(cache.pull(self.digest), LARGE)
        self.assertWhole(waiting, LARGE)
        health = dict(cache.registries[0].health())
        self.assertEqual(health, {"https://one.example": False, "https://two.example": True})

    def test_all_exhausted(self) -> None:
        """When nobody goes on, responses end short, and the next request goes on from what is there."""
        cache = self.two()
        cache.origin.misbehave("reset", at=HALF)
        self.second.misbehave("status", status=500)
        client = cache.pull(self.digest)
        cache.wire.down.add("one.example")
        cache.later(60)
        self.assertEqual((client.outcome, len(client.got)), ("short", HALF))
        cache.wire.down.clear()
        cache.origin.behave()
        self.second.behave()
        cache.origin.requests.clear()
        self.second.requests.clear()
        self.assertWhole(cache.pull(self.digest), LARGE)
        requests = cache.origin.requests + self.second.requests
        [asked] = [each for each in requests if "/blobs/" in each.path]  # and not a probe
        self.assertEqual(asked.headers["range"], f"bytes={HALF}-")

    def test_no_length(self) -> None:
        """Chunked and close-delimited bodies without a length are delivered whole and stored."""
        for framing in ("chunked", "close"):
            cache = self.make_cache()
            digest = cache.origin.put_blob(REPOSITORY, LARGE)
            cache.origin.misbehave(framing)
            self.assertWhole(cache.pull(digest), LARGE)
            self.assertIsNotNone(cache.index.blob(digest))

    def test_close_delimited_and_cut(self) -> None:
        """A body without a length that is cut short completes nobody and is not stored."""
        cache = self.make_cache()
        digest = cache.origin.put_blob(REPOSITORY, LARGE)
        cache.origin.misbehave("close")
        cache.origin.misbehave("short", at=HALF)
        self.assertEqual(cache.pull(digest).outcome, "short")
        self.assertIsNone(cache.index.blob(digest))

    def test_kinds_of_errors(self) -> None:
        """What a client is told says what the matter was: 503, 504, 502."""
        for status, kind in (
            (503, UpstreamUnavailable),
            (504, UpstreamTimeout),
            (500, UpstreamBroken),
            (300, UpstreamBroken),
        ):
            cache = self.make_cache()
            digest = cache.origin.put_blob(REPOSITORY, LARGE)
            cache.origin.misbehave("status", status=status)
            client = cache.pull(digest)
            cache.later(60)
            self.assertIsInstance(client.outcome, kind)
            self.assertFalse(
                cache.authorization.is_granted(cache.registries[0].subject(REPOSITORY, ANONYMOUS))
            )
            self.assertIsNone(cache.index.blob(digest))

    def test_patience_of_upstream_is_passed_on(self) -> None:
        """A 503's Retry-After reaches the client."""
        cache = self.make_cache()
        digest = cache.origin.put_blob(REPOSITORY, LARGE)
        cache.origin.misbehave("status", status=503, retry_after="9")
        outcome = cache.pull(digest).outcome
        assert isinstance(outcome, UpstreamUnavailable)
        self.assertEqual(outcome.headers, {"Retry-After": "9"})


class TurnsOfHostsTests(InMemoryCacheTestCase):
    """Several hosts share the work."""

    def test_round_robin(self) -> None:
        """Cold blobs go round, whatever the number of hosts."""
        for number in (2, 3):
            cache = self.make_cache(Upstream(URLS[0], URLS[:number]))
            for size in range(6):
                for origin in cache.origins.values():
                    digest = origin.put_blob(REPOSITORY, LARGE[: size + 1])
                cache.pull(digest)
            counts = {origin.count("GET") for origin in cache.origins.values()}
            self.assertEqual(counts, {6 // number})

    def test_fallback(self) -> None:
        """The origin itself is asked only when no cache on the way answers."""
        cache = self.make_cache(Upstream(URLS[2], URLS[:2], fallback=URLS[2]))
        for origin in cache.origins.values():
            digest = origin.put_blob(REPOSITORY, LARGE)
        self.assertWhole(cache.pull(digest), LARGE)
        self.assertEqual(cache.origins["three.example"].count(), 0)
        other = cache.origins["three.example"].put_blob(REPOSITORY, b"other")
        cache.wire.down |= {"one.example", "two.example"}
        self.assertWhole(cache.pull(other), b"other")
