"""Stored bytes are served in the name of an origin that has them, and of no other."""

from __future__ import annotations

from random import Random
from typing import Any, Final

from attrs import evolve

from contentcache.config.model import Upstream
from contentcache.core.credentials import Credential
from contentcache.core.digest import Digest
from contentcache.core.errors import BlobUnknown, CacheError, UpstreamBroken
from contentcache.delivery.possession import SAMPLE, choose_sample
from contentcache.storage.memory import MemoryStore
from tests.bad_registry import BadRegistry
from tests.delivery.in_memory import (
    LARGE,
    MANIFEST,
    ORIGIN,
    REPOSITORY,
    Client,
    InMemoryCache,
    InMemoryCacheTestCase,
)

ONE: Final = Upstream("https://one.example", ("https://one.example",))
TWO: Final = Upstream("https://two.example", ("https://two.example",))
NOISE: Final = Random(7).randbytes(300_000)
SMALL: Final = b"a small layer"
SIGNED: Final = Credential(signed="head.claims.signature")


class TwoOriginsTestCase(InMemoryCacheTestCase):
    """Begins with a content that origin one has delivered. Origin two says of itself that it has it too."""

    content = NOISE
    kind: Any = "blobs"

    def stored(self, **options: Any) -> InMemoryCache:
        """A cache with two origins."""
        cache = self.make_cache(ONE, TWO, **options)
        for origin in cache.origins.values():
            self.digest = self.put(origin)
        self.assertWhole(cache.pull(self.digest, kind=self.kind), self.content)
        return cache

    def put(self, origin: BadRegistry, repository: str = REPOSITORY) -> Digest:
        """Put the content into a registry."""
        if self.kind == "blobs":
            return origin.put_blob(repository, self.content)
        return origin.put_manifest(repository, self.content, MANIFEST)

    def two(self, cache: InMemoryCache) -> BadRegistry:
        """The other origin."""
        return cache.origins["two.example"]

    def pull(self, cache: InMemoryCache, **more: Any) -> Client:
        """A client of origin two."""
        return cache.pull(self.digest, origin=1, kind=self.kind, **more)

    def asked(self, cache: InMemoryCache) -> list[tuple[str, str | None]]:
        """What origin two was asked since."""
        requests = self.two(cache).requests
        asked = [(one.method, one.headers.get("range")) for one in requests]
        requests.clear()
        return asked


class ProofTests(TwoOriginsTestCase):
    """A large blob."""

    def test_sample(self) -> None:
        """The origin proves it by a few bytes of it, once, and the stored blob is served."""
        cache = self.stored()
        self.assertWhole(self.pull(cache), NOISE)
        head, (method, wanted) = self.asked(cache)
        self.assertEqual((head, method), (("HEAD", None), "GET"))
        assert wanted is not None
        first, last = map(int, wanted.removeprefix("bytes=").split("-"))
        self.assertEqual(last - first + 1, SAMPLE)
        self.assertWhole(self.pull(cache), NOISE)
        self.assertEqual(self.asked(cache), [])
        self.assertEqual(cache.origin.count(), 1)

    def test_proof_is_no_link(self) -> None:
        """In another repository of the same origin the question is asked anew, and no proof."""
        cache = self.stored()
        self.assertWhole(self.pull(cache), NOISE)
        self.asked(cache)
        self.assertRefused(self.pull(cache, repository="org/other"), 404)
        self.put(self.two(cache), "org/other")
        self.asked(cache)
        self.assertWhole(self.pull(cache, repository="org/other"), NOISE)
        self.assertEqual(self.asked(cache), [("HEAD", None)])

    def test_lasts(self) -> None:
        """A proof is in the index: after a restart it is not asked for again, for delivered bytes neither."""
        cache = self.stored()
        self.assertWhole(self.pull(cache), NOISE)
        self.asked(cache)
        cache.origin.requests.clear()
        cache.furnish()
        self.assertWhole(self.pull(cache), NOISE)
        self.assertEqual(self.asked(cache), [("HEAD", None)])
        self.assertWhole(cache.pull(self.digest), NOISE)
        self.assertEqual([asked.method for asked in cache.origin.requests], ["HEAD"])

    def test_says_yes_and_has_nothing(self) -> None:
        """An origin that says yes to HEAD and has no byte opens nothing, to a look at it neither."""
        cache = self.stored()
        self.two(cache).misbehave("status", method="GET", status=404)
        for _ in range(2):
            self.assertRefused(self.pull(cache), 404)
            asking = cache.asking(self.digest, origin=1)
            error = self.error(cache.blob_service.describe(asking), CacheError)
            self.assertEqual(error.status, 404)
        self.assertEqual(self.two(cache).count("GET"), 1, "not tried again for a minute")

    def test_other_bytes(self) -> None:
        """One that sends other bytes has not got them: 404, for a minute without trying again."""
        cache = self.stored()
        offset = Random(1).randrange(len(NOISE) - SAMPLE + 1)
        self.two(cache).misbehave("wrong", method="GET", at=offset + 5)
        for _ in range(3):
            client = self.pull(cache)
            self.assertRefused(client, 404)
            self.assertIsInstance(client.outcome, BlobUnknown)
        self.assertEqual(self.two(cache).count("GET"), 1)
        self.two(cache).behave()
        cache.later(59)
        self.assertRefused(self.pull(cache), 404)
        cache.later(1)
        self.assertWhole(self.pull(cache), NOISE)

    def test_other_length(self) -> None:
        """One that says another length has not got them."""
        cache = self.stored()
        self.two(cache).misbehave("resized", method="GET", by=-1)
        self.assertRefused(self.pull(cache), 404)

    def test_ranges_ignored(self) -> None:
        """A host that sends everything proves it by everything."""
        cache = self.stored()
        self.two(cache).misbehave("whole")
        self.assertWhole(self.pull(cache), NOISE)
        cache = self.stored()
        self.two(cache).misbehave("whole")
        self.two(cache).misbehave("wrong", method="GET", at=-1)
        self.assertRefused(self.pull(cache), 404)

    def test_no_answer(self) -> None:
        """Where the origin cannot be asked nothing is served, and nothing is remembered against it."""
        cache = self.stored()
        self.two(cache).misbehave("status", method="GET", status=503)
        self.assertRefused(self.pull(cache), 503)
        self.two(cache).behave()
        self.two(cache).misbehave("short", method="GET", at=10)
        self.assertRefused(self.pull(cache), 502)
        self.two(cache).behave()
        self.two(cache).misbehave("portal", method="GET")
        client = self.pull(cache)
        self.assertIsInstance(client.outcome, UpstreamBroken)
        self.two(cache).behave()
        cache.later(30)
        self.assertWhole(self.pull(cache), NOISE)

    def test_signed(self) -> None:
        """A signature of an origin opens what that origin has; it proves it to the same signature."""
        cache = self.stored()
        self.two(cache).misbehave("status", method="GET", status=404, times=1)
        self.assertRefused(self.pull(cache, credential=SIGNED), 404)
        self.two(cache).requests.clear()
        cache.later(60)
        self.assertWhole(self.pull(cache, credential=SIGNED), NOISE)
        (proof,) = self.two(cache).requests
        self.assertEqual((proof.method, proof.query), ("GET", "token=head.claims.signature"))
        self.asked(cache)
        self.assertWhole(self.pull(cache, credential=SIGNED), NOISE)
        self.assertEqual(self.asked(cache), [])

    def test_download_in_progress(self) -> None:
        """Bytes that come from one origin are sent to no client of another; when stored, it proves them."""
        cache = self.make_cache(ONE, TWO)
        for origin in cache.origins.values():
            self.digest = self.put(origin)
        cache.origin.misbehave("stall", at=200_000, times=1)
        self.two(cache).misbehave("status", method="GET", status=404)
        first = cache.pull(self.digest)
        thief = self.pull(cache)
        self.assertEqual(bytes(thief.got), b"")
        cache.origin.release()
        self.assertWhole(first, NOISE)
        self.assertRefused(thief, 404)

    def test_keepdeleted_and_stale(self) -> None:
        """Old answers of an origin open what it has, and nothing else: they are no proof."""
        for options in ({"staleiferror": 600.0}, {"keepdeleted": True}):
            cache = self.stored(affirmttl=10.0, **options)
            self.assertWhole(self.pull(cache), NOISE)
            cache.index.forget([self.digest])
            cache.blob_service.lost_index()
            cache.later(11)
            if "staleiferror" in options:
                cache.wire.down.add("two.example")
            else:
                self.two(cache).misbehave("status", status=404)
            self.assertNotEqual(self.pull(cache).status, 200)


class SharedTests(TwoOriginsTestCase):
    """One proof for all who wait for it."""

    def test_single_flight(self) -> None:
        """Clients who come together share one proof; one who leaves takes it from nobody."""
        cache = self.stored()
        self.two(cache).misbehave("stall", method="GET", at=-1)
        clients = [self.pull(cache, repository=name) for name in (REPOSITORY, REPOSITORY)]
        clients[0].leave()
        self.two(cache).release()
        self.assertWhole(clients[1], NOISE)
        self.assertEqual(self.two(cache).count("GET"), 1)

    def test_another_way_does_not_wait(self) -> None:
        """A request that came through other caches waits for nobody's proof: that may be waiting for it."""
        cache = self.stored()
        self.two(cache).misbehave("stall", method="GET", at=-1, times=1)
        first = self.pull(cache)
        asking = evolve(
            cache.asking(self.digest, origin=1), via="1.1 contentcache-other, 1.1 contentcache-me"
        )
        self.assertWhole(Client(cache.blob_service.get(asking), (0, None), takes=True), NOISE)
        self.assertIsNone(first.outcome)
        self.two(cache).release()
        self.assertWhole(first, NOISE)

    def test_refusal_is_nobody_elses(self) -> None:
        """What the first one's credential is refused is not the answer for another one."""
        cache = self.stored(auth=None)
        two = self.two(cache)
        two.misbehave("status", method="GET", status=403, times=1)
        two.misbehave("stall", method="GET", at=-1, times=1)
        first = self.pull(cache, authorization="Basic Zmlyc3Q6MQ==")
        second = self.pull(cache, authorization="Basic c2Vjb25kOjI=")
        two.release()
        self.assertRefused(first, 403)
        self.assertWhole(second, NOISE)
        self.assertEqual(two.count("GET"), 2)

    def test_failure_is_nobody_elses(self) -> None:
        """What comes instead of the bytes for one credential decides for no other one, then or later."""
        offset = Random(1).randrange(len(NOISE) - SAMPLE + 1)
        for manner in ({"name": "wrong", "at": offset}, {"name": "status", "status": 416}, {"name": "whole"}):
            for coalesced in (True, False):
                cache = self.stored()
                two = self.two(cache)
                if manner["name"] == "whole":
                    two.misbehave("resized", method="GET", by=-100_000, times=1)
                two.misbehave(method="GET", times=2 if manner.get("status") == 416 else 1, **manner)
                if coalesced:
                    two.misbehave("stall", method="GET", at=-1, times=1)
                first = self.pull(cache, authorization="Basic Zmlyc3Q6MQ==")
                second = self.pull(cache, authorization="Basic c2Vjb25kOjI=")
                two.release()
                self.assertNotEqual(first.outcome, "whole")
                self.assertWhole(second, NOISE)

    def test_same_sample(self) -> None:
        """For a minute every credential is asked for the same bytes: many tries are worth one."""
        cache = self.stored()
        self.two(cache).misbehave("wrong", method="GET", at=Random(1).randrange(len(NOISE) - SAMPLE + 1) + 5)
        for number in range(5):
            self.assertRefused(self.pull(cache, authorization=f"Basic {number}"), 404)
        self.assertEqual(len(set(self.asked(cache)) - {("HEAD", None)}), 1)
        cache.later(60)
        self.assertWhole(self.pull(cache), NOISE)


class CompressibleTests(TwoOriginsTestCase):
    """A large blob that could be guessed."""

    content = LARGE

    def test_whole(self) -> None:
        """Where no part can prove it, the whole does."""
        cache = self.stored()
        self.assertWhole(self.pull(cache), LARGE)
        self.assertEqual(self.asked(cache), [("HEAD", None), ("GET", None)])

    def test_looks_for_a_part(self) -> None:
        """A part that does not compress is looked for, sixteen times; where most do, all is the proof."""
        store = MemoryStore()
        content = bytes(300_000) + NOISE
        file = store.resume(Digest.of(content), ORIGIN)
        file.write(0, content)
        offsets = iter([0, 100, 200_000, *[400_000] * 13])
        sample = choose_sample(file, lambda _n: next(offsets))
        self.assertEqual((sample.offset, sample.expected), (400_000, content[400_000 : 400_000 + SAMPLE]))
        few = iter([*[0] * 9, *[400_000] * 7])
        self.assertIsNone(choose_sample(file, lambda _n: next(few)).range)
        tried: list[int] = []

        def zero(_n: int) -> int:
            tried.append(0)
            return 0

        self.assertIsNone(choose_sample(file, zero).range)
        self.assertEqual(len(tried), 16)
        file.close()


class SmallTests(TwoOriginsTestCase):
    """A small blob."""

    content = SMALL

    def test_whole(self) -> None:
        """It is proved by all of it."""
        cache = self.stored()
        self.assertWhole(self.pull(cache), SMALL)
        self.assertEqual(self.asked(cache), [("HEAD", None), ("GET", None)])
        cache = self.stored()
        self.two(cache).misbehave("wrong", method="GET")
        self.assertRefused(self.pull(cache), 404)


class ManifestTests(TwoOriginsTestCase):
    """Manifests."""

    content = b'{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json"}'
    kind = "manifests"

    def test_whole(self) -> None:
        """One is proved by all of it."""
        cache = self.stored()
        self.assertWhole(self.pull(cache), self.content)
        cache = self.stored()
        self.two(cache).misbehave("status", method="GET", status=404)
        client = self.pull(cache)
        self.assertRefused(client, 404)

    def test_code(self) -> None:
        """A proof that fails is answered in the registry's vocabulary."""
        cache = self.stored()
        self.two(cache).misbehave("wrong", method="GET")
        client = self.pull(cache)
        self.assertRefused(client, 404)
        self.assertEqual(getattr(client.outcome, "code", None), "MANIFEST_UNKNOWN")

    def test_tag(self) -> None:
        """A tag that names another origin's manifest opens nothing; one whose GET brings it does."""
        cache = self.stored()
        two = self.two(cache)
        two.put_manifest(REPOSITORY, self.content, MANIFEST, "latest")
        two.misbehave("status", method="GET", status=404)
        asking = cache.tag_asking("latest", origin=1)
        self.assertRefused(Client(cache.tags.get(asking), (0, None), takes=True), 404)
        two.behave()
        two.misbehave("status", method="GET", path="*/sha256:*", status=404)
        cache.later(60)
        self.assertWhole(Client(cache.tags.get(asking), (0, None), takes=True), self.content)
        # That was the proof: by digest it is served from here.
        two.requests.clear()
        self.assertWhole(self.pull(cache), self.content)
        self.assertEqual(two.requests, [])


class UnknownOriginTests(InMemoryCacheTestCase):
    """Stored bytes of which nobody knows who has delivered them."""

    def test_index_lost(self) -> None:
        """After the index was lost the only origin proves what it has, as any other would."""
        for honest in (True, False):
            cache = self.make_cache()
            digest = cache.origin.put_blob(REPOSITORY, NOISE)
            self.assertWhole(cache.pull(digest), NOISE)
            cache.index.forget([digest])
            cache.blob_service.lost_index()
            cache.origin.requests.clear()
            if not honest:
                cache.origin.misbehave("status", method="GET", status=404)
            client = cache.pull(digest)
            if honest:
                self.assertWhole(client, NOISE)
                self.assertEqual([asked.method for asked in cache.origin.requests], ["GET"])
            else:
                self.assertRefused(client, 404)

    def test_signed(self) -> None:
        """A signed URL alone does not open them."""
        cache = self.make_cache()
        digest = cache.origin.put_blob(REPOSITORY, NOISE)
        self.assertWhole(cache.pull(digest), NOISE)
        cache.index.forget([digest])
        cache.blob_service.lost_index()
        cache.origin.misbehave("status", method="GET", status=404)
        self.assertRefused(cache.pull(digest, credential=SIGNED), 404)

    def test_origin_removed(self) -> None:
        """What a removed origin had delivered is opened by no other one without a proof."""
        cache = self.make_cache(ONE, TWO)
        digest = cache.origins["one.example"].put_blob(REPOSITORY, NOISE)
        self.assertWhole(cache.pull(digest), NOISE)
        cache.upstreams = cache.upstreams[1:]
        cache.furnish()
        cache.origins["two.example"].put_blob(REPOSITORY, NOISE)
        cache.origins["two.example"].misbehave("status", method="GET", status=404)
        self.assertRefused(cache.pull(digest), 404)
        self.assertRefused(cache.pull(digest, credential=SIGNED), 404)
