"""Tags: only the origin knows what they mean."""

from __future__ import annotations

from itertools import product
from typing import Any

from contentcache.config.model import Limits, Upstream
from contentcache.core.digest import Digest
from contentcache.core.errors import ManifestTooLarge, OriginRefused, UpstreamBroken
from contentcache.core.manifests import SIGNED_SCHEMA_1
from tests.core.test_manifests import PAYLOAD, signed
from tests.delivery.in_memory import MANIFEST, REPOSITORY, Client, InMemoryCache, InMemoryCacheTestCase
from tests.misbehaviour import Reply

OLD, NEW = b'{"old": 1}', b'{"new": 2}'
INDEX = "application/vnd.oci.image.index.v1+json"
BY_TAG, BY_DIGEST = "*/manifests/latest", "*/manifests/sha256:*"
SIGNED = "application/vnd.docker.distribution.manifest.v1+prettyjws"


class TagTestCase(InMemoryCacheTestCase):
    """An origin with one tag."""

    def tagged(self, *upstreams: Upstream, **options: Any) -> InMemoryCache:
        """A cache whose origin has ``latest``."""
        cache = self.make_cache(*upstreams, **options)
        self.digest = cache.origin.put_manifest(REPOSITORY, OLD, MANIFEST, "latest")
        return cache

    def assertAsked(self, cache: InMemoryCache, *expected: str) -> None:
        """What the origin was asked since, and how."""
        asked = [f"{one.method} {one.path.rpartition('/')[2][:6]}" for one in cache.origin.requests]
        self.assertEqual(asked, list(expected))
        cache.origin.requests.clear()

    def assertManifest(self, client: Client, content: bytes, media_type: str = MANIFEST) -> None:
        """The client has got a manifest."""
        self.assertWhole(client, content)
        assert client.served is not None
        self.assertEqual(client.served.media_type, media_type)


class PullTests(TagTestCase):
    """``GET`` of a tag."""

    def test_cold_and_warm(self) -> None:
        """Cold: one HEAD, and one GET by digest. Warm: one HEAD, with the client's own Accept."""
        cache = self.tagged()
        self.assertManifest(cache.pull_tag("latest", None, INDEX, MANIFEST), OLD)
        self.assertAsked(cache, "HEAD latest", "GET sha256")
        self.assertManifest(cache.pull_tag("latest", None, INDEX, MANIFEST), OLD)
        self.assertEqual(cache.origin.requests[0].headers["accept"], f"{INDEX}, {MANIFEST}")
        self.assertAsked(cache, "HEAD latest")

    def test_moved(self) -> None:
        """The very next pull sees that a tag was moved."""
        cache = self.tagged()
        cache.pull_tag("latest")
        cache.origin.put_manifest(REPOSITORY, NEW, MANIFEST, "latest")
        self.assertManifest(cache.pull_tag("latest"), NEW)

    def test_no_byte_before_all_are_verified(self) -> None:
        """A manifest that is not what its digest says is an error, without a byte."""
        cache = self.tagged()
        cache.origin.misbehave("wrong", path=BY_DIGEST, at=-1)
        self.assertRefused(cache.pull_tag("latest"), 502)

    def test_refusals(self) -> None:
        """
        A refusal costs one request: what HEAD says counts, where its status says enough. Others are repeated
        as GET, for their reason is in the body.
        """
        for status, methods in ((401, 1), (403, 1), (404, 1), (429, 1), (412, 2), (451, 2)):
            cache = self.tagged()
            cache.origin.misbehave("status", status=status, challenge="Basic x")
            client = cache.pull_tag("latest")
            self.assertRefused(client, status)
            assert isinstance(client.outcome, OriginRefused)
            self.assertEqual(client.outcome.headers["WWW-Authenticate"], "Basic x")
            self.assertEqual(b"on purpose" in client.outcome.body, methods == 2)
            self.assertEqual(cache.origin.count(), methods)
            self.assertEqual(client.outcome.code == "MANIFEST_UNKNOWN", status == 404)

    def test_heads_without_use(self) -> None:
        """No digest, a 405, a refusal though GET says yes, storage that refuses: the GET of the tag tells."""
        for manner in (
            {"name": "without"},
            {"name": "status", "status": 405},
            {"name": "status", "status": 401},
            {"name": "with", "header": "Docker-Content-Digest", "value": "sha256:nonsense"},
        ):
            cache = self.tagged()
            cache.origin.misbehave(method="HEAD", **manner)
            self.assertManifest(cache.pull_tag("latest"), OLD)
            self.assertAsked(cache, "HEAD latest", "GET latest")

    def test_no_digest_anywhere(self) -> None:
        """Where the origin never names digests its manifests are named here, by their bytes."""
        cache = self.tagged()
        cache.origin.misbehave("without")
        client = cache.pull_tag("latest")
        self.assertManifest(client, OLD)
        assert client.served is not None
        self.assertEqual(client.served.digest, self.digest)

    def test_converted(self) -> None:
        """A digest that the origin names and does not have (it converts on the way) is had by its tag."""
        cache = self.tagged()
        cache.origin.misbehave("status", path=BY_DIGEST, status=404)
        self.assertManifest(cache.pull_tag("latest"), OLD)
        self.assertAsked(cache, "HEAD latest", "GET sha256", "GET latest")
        self.assertManifest(cache.pull_tag("latest"), OLD)

    def test_signed(self) -> None:
        """A manifest whose digest is not that of its bytes, by its kind, passes."""
        cache = self.tagged()
        other = cache.origin.put_manifest(REPOSITORY, NEW, SIGNED)
        cache.origin.misbehave("with", header="Docker-Content-Digest", value=str(other))
        cache.origin.misbehave("with", header="Content-Type", value=SIGNED)
        self.assertManifest(cache.pull_tag("latest"), OLD, SIGNED)

    def test_other_bytes_than_named(self) -> None:
        """By tag too a manifest must be what its digest says."""
        cache = self.tagged()
        cache.origin.misbehave("status", method="HEAD", status=405)
        cache.origin.misbehave("wrong", method="GET")
        client = cache.pull_tag("latest")
        self.assertIsInstance(client.outcome, UpstreamBroken)

    def test_too_large(self) -> None:
        """A manifest over the limit is an error, whichever way it comes."""
        for manner in ({"name": "slow", "seconds": 0.0}, {"name": "without"}, {"name": "chunked"}):
            cache = self.tagged(limits=Limits(manifest=5))
            cache.origin.misbehave(**manner)
            client = cache.pull_tag("latest")
            cache.later(60)
            self.assertRefused(client, 413)
            self.assertLessEqual(cache.origin.count("GET"), 1)
            if manner["name"] != "without":
                self.error(cache.tags.describe(cache.tag_asking("latest")), ManifestTooLarge)

    def test_odd_success(self) -> None:
        """Neither a 206 nor a 416 is a manifest."""
        for status in (206, 203, 416):
            cache = self.tagged()
            cache.origin.misbehave("status", status=status)
            client = cache.pull_tag("latest")
            self.assertIn(client.status, (416, 502))
            self.assertEqual(list(cache.store.blobs()), [])


class DescribeTests(TagTestCase):
    """``HEAD`` of a tag."""

    def test_described(self) -> None:
        """One HEAD upstream is the answer."""
        cache = self.tagged()
        described = self.result(cache.tags.describe(cache.tag_asking("latest")))
        self.assertEqual(
            (described.digest, described.size, described.media_type), (self.digest, len(OLD), MANIFEST)
        )
        self.assertAsked(cache, "HEAD latest")

    def test_refused(self) -> None:
        """A refusal of a HEAD is passed on as it is, nothing being repeated."""
        cache = self.tagged()
        cache.origin.misbehave("status", status=401, challenge="Basic x")
        error = self.error(cache.tags.describe(cache.tag_asking("latest")), OriginRefused)
        self.assertEqual((error.status, cache.origin.count()), (401, 1))

    def test_without_length(self) -> None:
        """Where upstream's HEAD says no length it is had by digest."""
        cache = self.tagged()
        cache.origin.misbehave("chunked", path=BY_TAG)
        described = self.result(cache.tags.describe(cache.tag_asking("latest")))
        self.assertEqual(described.size, len(OLD))


class RememberedTests(TagTestCase):
    """Tags that are not asked for."""

    def test_immutable(self) -> None:
        """A tag that never moves is not asked again within affirmttl, by whoever holds a grant."""
        upstream = Upstream("https://one.example", ("https://one.example",), immutabletags="lat*")
        cache = self.tagged(upstream, affirmttl=600.0)
        cache.pull_tag("latest")
        cache.origin.requests.clear()
        self.assertManifest(cache.pull_tag("latest"), OLD)
        self.assertAsked(cache)
        cache.pull_tag("latest", "Basic eHg6eQ==")
        self.assertAsked(cache, "HEAD latest")
        cache.later(61)
        self.assertManifest(cache.pull_tag("latest"), OLD)
        self.assertAsked(cache, "HEAD latest")
        cache.later(540)
        cache.pull_tag("latest")
        self.assertAsked(cache, "HEAD latest")

    def test_stale(self) -> None:
        """While the origin is away a known tag is served to a granted client, marked, within the bound."""
        for status in (None, 429, 500):
            cache = self.tagged(staleiferror=600.0)
            cache.pull_tag("latest")
            cache.later(599)
            if status is not None:
                cache.origin.misbehave("status", status=status)
            else:
                cache.wire.down.add("one.example")
            client = cache.pull_tag("latest")
            self.assertManifest(client, OLD)
            assert client.served is not None
            self.assertTrue(client.served.stale)
            self.assertNotEqual(cache.pull_tag("latest", "Basic eHg6eQ==").status, 200)
            cache.later(1)
            self.assertNotEqual(cache.pull_tag("latest").status, 200)

    def test_stale_for_the_same_accept(self) -> None:
        """What a tag meant to another Accept is not what it means to this one."""
        cache = self.tagged(staleiferror=600.0)
        cache.pull_tag("latest", None, MANIFEST)
        cache.wire.down.add("one.example")
        self.assertEqual(cache.pull_tag("latest", None, INDEX).status, 503)

    def test_never_after_a_no(self) -> None:
        """A no of the origin is never overruled by what was known."""
        for status in (401, 403, 404):
            cache = self.tagged(staleiferror=600.0)
            cache.pull_tag("latest")
            cache.origin.misbehave("status", status=status)
            self.assertRefused(cache.pull_tag("latest"), status)


class SignedManifestTests(InMemoryCacheTestCase):
    """Signed manifests of schema 1 by digest: the digest is that of their payload."""

    def test_by_digest(self) -> None:
        """It passes, with its type, and is not stored; other bytes under that digest do not."""
        unsigned = "application/vnd.docker.distribution.manifest.v1+json"
        types = (SIGNED_SCHEMA_1, unsigned, "application/json", "application/json; charset=utf-8", None)
        for media_type, wrong in product(types, (False, True)):
            cache = self.make_cache()
            digest = Digest.of(PAYLOAD, "sha256")
            content = signed(PAYLOAD.replace(b"org", b"org2")) if wrong else signed()
            headers = {} if media_type is None else {"Content-Type": media_type}
            reply = Reply(200, headers, content, content, length=len(content))
            self.patch(cache.origin, "answer", lambda _asked, reply=reply: reply)
            client = cache.pull(digest, kind="manifests")
            if wrong:
                self.assertRefused(client, 502)
            else:
                self.assertWhole(client, content)
                assert client.served is not None
                self.assertEqual(client.served.media_type, media_type or SIGNED_SCHEMA_1)
                self.assertTrue(all(well for _, well in cache.registries[0].health()))
            self.assertIsNone(cache.index.blob(digest))
