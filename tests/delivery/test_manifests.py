"""Manifests: what is checked before it counts, and whose word of length and media type is taken."""

from __future__ import annotations

import json
from typing import Any

from contentcache.config.model import Upstream
from contentcache.core.digest import Digest
from contentcache.core.errors import UpstreamBroken
from contentcache.core.header_policy import Headers
from contentcache.core.manifests import ManifestInvalid
from contentcache.delivery.responses import ContentHead
from tests.delivery.in_memory import LARGE, MANIFEST, REPOSITORY, Client, InMemoryCache, InMemoryCacheTestCase

OLD = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "old": 1}).encode()
NEW = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "new": 2}).encode()
PLAIN = b'{"schemaVersion": 2, "config": {}, "layers": []}'
PAGE = b"<!DOCTYPE html><html><body>Please sign in</body></html>"
VENDOR = "application/vnd.vendor.thing.v1+json"
BY_DIGEST = "*/manifests/sha256:*"
TWO = Upstream("https://one.example", ("https://one.example", "https://two.example"))


class ManifestTestCase(InMemoryCacheTestCase):
    """An origin with the tag ``v1``."""

    def tagged(self, *upstreams: Upstream, content: bytes = OLD, **options: Any) -> InMemoryCache:
        """A cache whose origins have ``v1``."""
        cache = self.make_cache(*upstreams, **options)
        for origin in cache.origins.values():
            self.digest = origin.put_manifest(REPOSITORY, content, MANIFEST, "v1")
        return cache

    def immutable(self, **options: Any) -> InMemoryCache:
        """The same with tags that never move."""
        upstream = Upstream("https://one.example", ("https://one.example",), immutabletags="v*")
        return self.tagged(upstream, **options)

    def head(self, cache: InMemoryCache, tag: str = "v1") -> ContentHead:
        """What a HEAD of a tag is answered."""
        return self.result(cache.tags.describe(cache.tag_asking(tag)))

    def assertManifest(self, client: Client, content: bytes, media_type: str | None = MANIFEST) -> None:
        """The client has got a manifest of this type."""
        self.assertWhole(client, content)
        assert client.served is not None
        self.assertEqual(client.served.media_type, media_type)

    def assertNotStored(self, cache: InMemoryCache, content: bytes) -> None:
        """The store has not got it."""
        self.assertNotIn(Digest.of(content), [file.digest for file in cache.store.blobs()])


class UnverifiedTests(ManifestTestCase):
    """What is no manifest is neither stored nor what a tag means."""

    def test_page_for_a_tag(self) -> None:
        """A page of HTML with status 200 is a failure of upstream, and the tag keeps its meaning."""
        cache = self.tagged(staleiferror=600.0)
        cache.pull_tag("v1")
        cache.origin.misbehave("portal")
        self.assertManifest(cache.pull_tag("v1"), OLD)
        self.assertEqual(self.head(cache).media_type, MANIFEST)
        cache.wire.down.add("one.example")
        self.assertManifest(cache.pull_tag("v1"), OLD)
        self.assertNotStored(cache, PAGE)

    def test_page_for_an_unknown_tag(self) -> None:
        """Nor does a tag that was not known mean the page."""
        cache = self.immutable()
        cache.pull_tag("v1")
        cache.origin.misbehave("portal")
        self.assertRefused(cache.pull_tag("v2"), 502)
        self.error(cache.tags.describe(cache.tag_asking("v2")), UpstreamBroken)
        cache.origin.behave()
        cache.later(31)  # the host has failed
        cache.origin.put_manifest(REPOSITORY, NEW, MANIFEST, "v2")
        self.assertManifest(cache.pull_tag("v2"), NEW)

    def test_page_of_one_host(self) -> None:
        """Where one host sends a page the next one is asked, and the first is unhealthy."""
        cache = self.tagged(TWO)
        for origin in cache.origins.values():
            origin.misbehave("without", method="HEAD")
        cache.origins["one.example"].misbehave("portal", method="GET")
        cache.registries[0].order("manifests")  # now it is that host's turn for a GET
        self.assertManifest(cache.pull_tag("v1"), OLD)
        self.assertIn(("https://one.example", False), cache.registries[0].health())

    def test_by_digest(self) -> None:
        """A digest whose content is a page is a failure of upstream too, each time, and nothing is stored."""
        cache = self.make_cache()
        digest = cache.origin.put_manifest(REPOSITORY, PAGE, "text/html", "v1")
        for _ in range(2):
            client = cache.pull(digest, kind="manifests")
            self.assertRefused(client, 502)
            self.assertIsInstance(client.outcome, ManifestInvalid)
            self.assertRefused(cache.pull_tag("v1"), 502)
        self.assertNotStored(cache, PAGE)

    def test_stored_as_blob(self) -> None:
        """A stored blob that is no manifest is not served as one, whatever the origin says."""
        cache = self.make_cache()
        cache.origin.put_blob(REPOSITORY, PAGE)
        digest = cache.origin.put_manifest(REPOSITORY, PAGE, MANIFEST, "v1")
        self.assertWhole(cache.pull(digest), PAGE)
        self.assertRefused(cache.pull_tag("v1"), 502)
        self.assertRefused(cache.pull(digest, kind="manifests"), 502)
        self.assertWhole(cache.pull(digest), PAGE)

    def test_another_type_than_its_own(self) -> None:
        """A manifest under another type than its own passes as upstream sent it, and counts for nothing."""
        for by_tag in (True, False):
            cache = self.tagged(staleiferror=600.0)
            cache.origin.misbehave("with", header="Content-Type", value="text/html; charset=utf-8")
            if by_tag:
                cache.origin.misbehave("without", method="HEAD")
            self.assertManifest(cache.pull_tag("v1"), OLD, "text/html; charset=utf-8")
            self.assertNotStored(cache, OLD)
            cache.wire.down.add("one.example")
            self.assertEqual(cache.pull_tag("v1").status, 503)

    def test_digest_named_by_head_alone(self) -> None:
        """What HEAD names becomes the meaning of a tag when its manifest has come, and not before."""
        cache = self.tagged(staleiferror=600.0)
        cache.pull_tag("v1")
        unknown = Digest.of(b"never delivered")
        cache.origin.misbehave("with", method="HEAD", header="Docker-Content-Digest", value=str(unknown))
        self.assertEqual(self.head(cache).digest, unknown)
        cache.wire.down.add("one.example")
        self.assertManifest(cache.pull_tag("v1"), OLD)

    def test_head_then_get_by_digest(self) -> None:
        """HEAD of the tag and GET of the digest, as containerd pulls, are enough for the tag to be known."""
        cache = self.tagged(staleiferror=600.0)
        for content in (OLD, NEW):
            digest = cache.origin.put_manifest(REPOSITORY, content, MANIFEST, "v1")
            self.assertEqual(self.head(cache).digest, digest)
            self.assertWhole(cache.pull(digest, kind="manifests"), content)
        self.head(cache)
        cache.wire.down.add("one.example")
        self.assertManifest(cache.pull_tag("v1"), NEW)
        self.assertEqual(self.head(cache).digest, Digest.of(NEW))

    def test_gone(self) -> None:
        """A tag that is gone is known no more, verified or not."""
        cache = self.tagged(staleiferror=600.0)
        self.head(cache)
        cache.pull(self.digest, kind="manifests")
        cache.origin.misbehave("status", status=404, times=2)
        self.assertRefused(cache.pull_tag("v1"), 404)
        cache.wire.down.add("one.example")
        self.assertRefused(cache.pull_tag("v1"), 503)

    def test_vendor(self) -> None:
        """A manifest of a type that nobody here knows is stored as any."""
        cache = self.make_cache()
        content = json.dumps({"mediaType": VENDOR, "thing": True}).encode()
        cache.origin.put_manifest(REPOSITORY, content, VENDOR, "v1")
        self.assertManifest(cache.pull_tag("v1", None, VENDOR), content, VENDOR)
        cache.origin.requests.clear()
        self.assertManifest(cache.pull_tag("v1", None, VENDOR), content, VENDOR)
        self.assertEqual(cache.origin.count("GET"), 0)


class PrecedenceTests(ManifestTestCase):
    """What GET said, and what is stored, beats what HEAD says."""

    def misbehave_heads(self, cache: InMemoryCache, header: str, value: str | None) -> None:
        """From now on a header of HEAD says this, or is missing."""
        if value is not None:
            cache.origin.misbehave("with", method="HEAD", header=header, value=value)
        elif header == "Content-Length":
            cache.origin.misbehave("chunked", method="HEAD")
        else:
            cache.origin.misbehave("without", method="HEAD", header=header)

    def test_media_type(self) -> None:
        """HEAD without a type, or with a wrong one: the first time, the second, by digest, and for HEAD."""
        for content in (OLD, PLAIN):
            for value in (None, "text/plain; charset=utf-8"):
                cache = self.tagged(content=content)
                self.misbehave_heads(cache, "Content-Type", value)
                self.assertManifest(cache.pull_tag("v1"), content)
                self.assertManifest(cache.pull_tag("v1"), content)
                self.assertManifest(cache.pull(self.digest, kind="manifests"), content)
                self.assertEqual(self.head(cache).media_type, MANIFEST)
                by_digest = self.result(
                    cache.blob_service.describe(cache.asking(self.digest, kind="manifests"))
                )
                self.assertEqual((by_digest.media_type, by_digest.size), (MANIFEST, len(content)))

    def test_undeclared_type(self) -> None:
        """A manifest that declares no type keeps the one that GET said, over HEADs that say another."""
        cache = self.make_cache()
        digest = cache.origin.put_manifest(REPOSITORY, b'{"thing": 1}', VENDOR, "v1")
        cache.pull_tag("v1")
        cache.origin.misbehave("with", method="HEAD", header="Content-Type", value="application/other+json")
        for fast in (True, False):
            cache.furnish(fastpath=fast)
            self.assertManifest(cache.pull_tag("v1"), b'{"thing": 1}', VENDOR)
            self.assertManifest(cache.pull(digest, kind="manifests"), b'{"thing": 1}', VENDOR)

    def test_no_type_at_all(self) -> None:
        """A manifest without a type from anybody is what it looks like."""
        cache = self.tagged(content=PLAIN)
        cache.origin.misbehave("without", header="Content-Type")
        for _ in range(2):
            self.assertManifest(cache.pull_tag("v1"), PLAIN)

    def test_length(self) -> None:
        """HEAD without a length, or with 0: the true one, which costs the GET that comes next anyway."""
        for value in (None, "0"):
            cache = self.tagged()
            self.misbehave_heads(cache, "Content-Length", value)
            for described in (
                self.head(cache),
                self.head(cache),
                self.result(cache.blob_service.describe(cache.asking(self.digest, kind="manifests"))),
            ):
                self.assertEqual(described.size, len(OLD))
            self.assertManifest(cache.pull_tag("v1"), OLD)
            self.assertEqual(cache.origin.count("GET"), 1)

    def test_length_of_a_blob(self) -> None:
        """HEAD of a blob without a length, or with 0: the total that GET of its first byte says."""
        for value in (None, "0"):
            cache = self.make_cache()
            digest = cache.origin.put_blob(REPOSITORY, LARGE)
            self.misbehave_heads(cache, "Content-Length", value)
            described = self.result(cache.blob_service.describe(cache.asking(digest)))
            self.assertEqual(described.size, len(LARGE))
            part = cache.pull(digest, part=(10, 20), whole=False)
            self.assertWhole(part, LARGE[10:20])

    def test_no_length_anywhere(self) -> None:
        """Where nobody says a length it is unknown, and the blob comes whole."""
        cache = self.make_cache()
        digest = cache.origin.put_blob(REPOSITORY, LARGE)
        cache.origin.misbehave("whole")
        cache.origin.misbehave("chunked")
        self.assertIsNone(self.result(cache.blob_service.describe(cache.asking(digest))).size)
        self.assertWhole(cache.pull(digest, whole=False), LARGE)

    def test_empty_blob(self) -> None:
        """A length of 0 is true of the empty blob."""
        cache = self.make_cache()
        digest = cache.origin.put_blob(REPOSITORY, b"")
        self.assertEqual(self.result(cache.blob_service.describe(cache.asking(digest))).size, 0)


class NoticeTests(ManifestTestCase):
    """What the origin tells a client besides the manifest."""

    def test_tags(self) -> None:
        """Warnings and rate limits come with HEAD and GET of a tag, cold and warm, but not when stale."""
        cache = self.tagged(staleiferror=600.0)
        notices: Headers = {"Warning": '299 - "goes away"', "RateLimit-Remaining": "7;w=21600"}
        for name, value in notices.items():
            cache.origin.misbehave("with", header=name, value=str(value))
        self.assertEqual(self.head(cache).notices, notices)
        for _ in range(2):
            client = cache.pull_tag("v1")
            assert client.served is not None
            self.assertEqual(client.served.notices, notices)
        cache.origin.misbehave("without", method="HEAD")
        self.assertEqual(self.head(cache).notices, notices)
        cache.wire.down.add("one.example")
        self.assertEqual(self.head(cache).notices, {})

    def test_by_digest(self) -> None:
        """They come with a digest where the origin is asked in the client's name, and are not kept."""
        cache = self.tagged()
        cache.origin.misbehave("with", header="RateLimit-Remaining", value="7")
        asking = cache.asking(self.digest, kind="manifests")
        self.assertEqual(
            self.result(cache.blob_service.describe(asking)).notices, {"RateLimit-Remaining": "7"}
        )
        cache.later(61)
        for expected in ({"RateLimit-Remaining": "7"}, {}):
            client = cache.pull(self.digest, kind="manifests")
            assert client.served is not None
            self.assertEqual(client.served.notices, expected)
