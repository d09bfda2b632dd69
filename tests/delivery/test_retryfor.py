"""Transfers whose upstreams go away in the middle, and come back."""

from __future__ import annotations

from typing import Any

from twisted.logger import LogLevel, capturedLogs

from contentcache.config.model import Limits, Upstream
from contentcache.core.errors import UpstreamUnavailable
from tests.delivery.in_memory import LARGE, ORIGIN, REPOSITORY, Client, InMemoryCache, InMemoryCacheTestCase

HALF = len(LARGE) // 2
HOST = "one.example"
MIB = 1 << 20
INDEX = "application/vnd.oci.image.index.v1+json"


class RetryForTests(InMemoryCacheTestCase):
    """A registry is restarted while clients pull from it."""

    def make(self, *upstreams: Upstream, **options: Any) -> InMemoryCache:
        """A cache whose first origin has a blob."""
        cache = self.make_cache(*upstreams, **options)
        self.digest = cache.origin.put_blob(REPOSITORY, LARGE)
        return cache

    def cut(self, cache: InMemoryCache, **more: Any) -> Client:
        """A client of a body that breaks off in the middle, at an upstream that is then down."""
        cache.origin.misbehave("reset", at=HALF, method="GET", times=1)
        client = cache.pull(self.digest, **more)
        self.assertEqual((client.outcome, len(client.got)), (None, HALF))
        cache.wire.down.add(HOST)
        return client

    def ranges(self, cache: InMemoryCache) -> list[str | None]:
        """The ranges that upstream was asked for, probes apart."""
        return [asked.headers.get("range") for asked in cache.origin.requests if "/blobs/" in asked.path]

    def test_restart(self) -> None:
        """All clients of a download go on where it stopped within two seconds, and no byte is requested twice."""
        cache = self.make()
        clients = [self.cut(cache), cache.pull(self.digest), cache.pull(self.digest)]
        cache.later(15)
        self.assertEqual({client.outcome for client in clients}, {None})
        late = cache.pull(self.digest)
        cache.wire.down.clear()
        cache.later(2)
        for client in (*clients, late):
            self.assertWhole(client, LARGE)
        self.assertEqual(self.ranges(cache), [None, f"bytes={HALF}-"])
        self.assertIsNotNone(cache.index.blob(self.digest))

    def test_end(self) -> None:
        """After ``retryfor`` without a byte responses end short, and what is there is resumed later."""
        for seconds in (4.0, 20.0):
            cache = self.make(retryfor=seconds)
            client = self.cut(cache)
            cache.later(seconds - 1)
            self.assertIsNone(client.outcome)
            cache.later(2)
            self.assertEqual((client.outcome, len(client.got)), ("short", HALF))
            cache.wire.down.clear()
            self.assertWhole(cache.pull(self.digest), LARGE)
            self.assertEqual(self.ranges(cache), [None, f"bytes={HALF}-"])

    def test_off(self) -> None:
        """With ``retryfor: 0s`` upstream is asked once more, at once."""
        cache = self.make(retryfor=0.0)
        client = self.cut(cache)
        cache.clock.advance(0.1)
        self.assertEqual(client.outcome, "short")
        cache = self.make(retryfor=0.0)
        again = self.cut(cache)
        cache.wire.down.clear()
        cache.clock.advance(0.1)
        self.assertEqual(again.outcome, "whole")

    def test_every_kind_of_outage(self) -> None:
        """A host that answers 5xx, resets or does not answer is waited for like one that is down."""
        kinds: list[dict[str, Any]] = [
            {"name": "status", "status": 500},
            {"name": "status", "status": 502},
            {"name": "status", "status": 503, "retry_after": "120"},
            {"name": "status", "status": 504},
            {"name": "reset", "at": -1},
        ]
        for kind in kinds:
            cache = self.make()
            client = self.cut(cache)
            cache.wire.down.clear()
            cache.origin.misbehave(**kind)
            cache.later(12)
            self.assertIsNone(client.outcome, kind)
            cache.origin.behave()
            cache.later(3)
            self.assertWhole(client, LARGE)

    def test_rate_limit(self) -> None:
        """``Retry-After`` of a 429 is waited for, where it is within ``retryfor``; else the end comes at once."""
        for seconds, outcome in (("7", "whole"), ("60", "short")):
            cache = self.make()
            client = self.cut(cache)
            cache.wire.down.clear()
            cache.origin.misbehave("status", method="GET", status=429, retry_after=seconds, times=1)
            cache.later(6)
            self.assertEqual(client.outcome, None if outcome == "whole" else "short")
            cache.later(3)
            self.assertEqual(client.outcome, outcome)

    def test_rate_limit_of_one_of_two(self) -> None:
        """Where upstream limits one client's rate, the download goes on in the name of another one."""
        cache = self.make()
        cache.origin.misbehave("stall", at=HALF, method="GET", times=1)
        cache.origin.misbehave("status", method="GET", status=429, retry_after="60", times=1, skip=1)
        first = cache.pull(self.digest, "Basic Zmlyc3Q6")
        other = cache.pull(self.digest, "Basic b3RoZXI6")
        cache.later(31)
        self.assertWhole(first, LARGE)
        self.assertWhole(other, LARGE)

    def test_refused(self) -> None:
        """A registry that is back and refuses is believed at once."""
        cache = self.make()
        client = self.cut(cache)
        cache.wire.down.clear()
        cache.origin.misbehave("status", method="GET", status=404)
        cache.later(1)
        self.assertEqual(client.outcome, "short")

    def test_before_the_response(self) -> None:
        """A response that has not begun is an error soon, of a blob and of a manifest whose body breaks off."""
        cache = self.make()
        cache.wire.down.add(HOST)
        client = cache.pull(self.digest)
        cache.later(1)
        self.assertIsInstance(client.outcome, UpstreamUnavailable)
        manifest = b'{"schemaVersion": 2, "mediaType": "%s"}' % INDEX.encode()
        cache = self.make()
        digest = cache.origin.put_manifest(REPOSITORY, manifest, INDEX, "1")
        cache.origin.misbehave("reset", at=9, method="GET")
        client = cache.pull(digest, kind="manifests")
        cache.wire.down.add(HOST)
        cache.later(4)
        self.assertEqual(client.status, 502)

    def test_no_slot_meanwhile(self) -> None:
        """A download that waits holds no permit of ``limits.fetches``, and takes its turn when it goes on."""
        other = Upstream("https://two.example", ("https://two.example",))
        cache = self.make(Upstream(ORIGIN, (ORIGIN,)), other, limits=Limits(fetches=1), fetchesperhost=1)
        client = self.cut(cache)
        second = cache.origins["two.example"]
        digest = second.put_blob(REPOSITORY, LARGE[::-1])
        second.misbehave("slow", seconds=14.0, method="GET")
        neighbour = cache.pull(digest, origin=1)
        cache.later(5)
        cache.wire.down.clear()
        cache.later(5)
        self.assertEqual((client.outcome, neighbour.outcome), (None, None))
        cache.later(10)
        self.assertWhole(neighbour, LARGE[::-1])
        self.assertWhole(client, LARGE)

    def test_clients_that_leave(self) -> None:
        """When the last client has left, nothing is waited for, with or without a permit to wait for."""
        cache = self.make()
        clients = [self.cut(cache), cache.pull(self.digest)]
        cache.later(5)
        for client in clients:
            self.assertEqual(cache.running_downloads, 1)
            client.leave()
        self.assertEqual(cache.running_downloads, 0)

    def test_client_that_leaves_the_queue(self) -> None:
        """The same while it waits for a permit again."""
        other = Upstream("https://two.example", ("https://two.example",))
        cache = self.make(Upstream(ORIGIN, (ORIGIN,)), other, limits=Limits(fetches=1))
        client = self.cut(cache)
        second = cache.origins["two.example"]
        digest = second.put_blob(REPOSITORY, LARGE[::-1])
        second.misbehave("slow", seconds=8.0, method="GET")
        neighbour = cache.pull(digest, origin=1)
        cache.later(5)
        self.assertEqual(cache.running_downloads, 2)
        client.leave()
        self.assertEqual(cache.running_downloads, 1)
        cache.later(5)
        self.assertWhole(neighbour, LARGE[::-1])

    def test_superseded(self) -> None:
        """A download that waits ends as soon as another origin's has stored the blob, and its clients go on."""
        other = Upstream("https://two.example", ("https://two.example",))
        cache = self.make(Upstream(ORIGIN, (ORIGIN,)), other)
        client = self.cut(cache)
        cache.origins["two.example"].put_blob(REPOSITORY, LARGE)
        self.assertWhole(cache.pull(self.digest, origin=1), LARGE)
        cache.later(5)
        self.assertEqual(cache.running_downloads, 0)
        cache.wire.down.clear()
        self.assertIn(client.outcome, {"whole", "short"})

    def test_without_room(self) -> None:
        """What passes through uncached goes on too, and is as right."""
        for part in ((0, None), (1000, len(LARGE) - 7)):
            cache = self.make()
            cache.room = False
            cache.origin.misbehave("reset", at=HALF, method="GET", times=1, skip=int(part[0] > 0))
            client = cache.pull(self.digest, part=part, whole=part[1] is None)
            cache.wire.down.add(HOST)
            cache.later(15)
            self.assertIsNone(client.outcome)
            self.assertGreater(len(client.got), 0)
            cache.wire.down.clear()
            cache.later(2)
            self.assertWhole(client, LARGE[part[0] : part[1]])

    def test_without_room_for_too_long(self) -> None:
        """It ends short after ``retryfor``."""
        cache = self.make(retryfor=5.0)
        cache.room = False
        client = self.cut_uncached(cache)
        cache.later(4)
        self.assertIsNone(client.outcome)
        cache.later(2)
        self.assertEqual(client.outcome, "short")

    def test_without_room_another_content(self) -> None:
        """What comes from elsewhere afterwards, and is something else, completes nobody."""
        kinds: list[dict[str, Any]] = [{"name": "wrong", "at": -1}, {"name": "resized", "by": 9}]
        for kind in kinds:
            cache = self.make()
            cache.room = False
            client = self.cut_uncached(cache)
            cache.wire.down.clear()
            cache.origin.misbehave(**kind)
            cache.later(25)
            self.assertEqual(client.outcome, "short")
            self.assertLess(len(client.got), len(LARGE))

    def cut_uncached(self, cache: InMemoryCache) -> Client:
        """A client of what passes through, whose upstream breaks off and is down."""
        cache.origin.misbehave("reset", at=HALF, method="GET", times=1)
        client = cache.pull(self.digest)
        cache.wire.down.add(HOST)
        return client

    def test_far_part(self) -> None:
        """A reader far away, of whom the response has begun, waits as well; one whose client leaves does not."""
        content = bytes(range(256)) * (20 * MIB // 256)
        for leaves in (False, True):
            cache = self.make()
            digest = cache.origin.put_blob(REPOSITORY, content)
            self.break_off_once(cache)
            start = 15 * MIB
            client = cache.pull(digest, part=(start, start + 9000), whole=False)
            cache.later(10)
            self.assertIsNone(client.outcome)
            if leaves:
                client.leave()
            else:
                cache.origin.behave()
                cache.later(2)
                self.assertWhole(client, content[start : start + 9000])

    def break_off_once(self, cache: InMemoryCache) -> None:
        """Let the origin break off one body, and then answer 503."""
        cache.origin.misbehave("reset", at=1000, method="GET", times=1)
        cache.origin.misbehave("status", status=503, method="GET", skip=1)

    def test_far_part_for_too_long(self) -> None:
        """It ends short after ``retryfor``."""
        cache = self.make()
        digest = cache.origin.put_blob(REPOSITORY, bytes(20 * MIB))
        self.break_off_once(cache)
        client = cache.pull(digest, part=(15 * MIB, 15 * MIB + 9000), whole=False)
        cache.later(19)
        self.assertIsNone(client.outcome)
        cache.later(2)
        self.assertEqual(client.outcome, "short")

    def test_seen(self) -> None:
        """One line when it begins to wait, one when it goes on, and a gauge between them."""
        cache = self.make()
        with capturedLogs() as lines:
            self.cut(cache)
            cache.later(9)
            self.assertEqual(self.waiting(cache), 1)
            cache.wire.down.clear()
            cache.later(2)
        self.assertEqual(self.waiting(cache), 0)
        phrases = [(event["log_level"], event["log_format"].split(" {")[0]) for event in lines]
        self.assertEqual(phrases.count((LogLevel.warn, "download waits for upstream")), 1)
        self.assertEqual(phrases.count((LogLevel.info, "download goes on")), 1)

    def waiting(self, cache: InMemoryCache) -> float | None:
        """The gauge of downloads that wait."""
        return cache.meter.registry.get_sample_value("contentcache_downloads_waiting")
