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
from tests.delivery.house import LARGE, MANIFEST, REPOSITORY, Client, House, HouseTestCase

OLD = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "old": 1}).encode()
NEW = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "new": 2}).encode()
PLAIN = b'{"schemaVersion": 2, "config": {}, "layers": []}'
PAGE = b"<!DOCTYPE html><html><body>Please sign in</body></html>"
VENDOR = "application/vnd.vendor.thing.v1+json"
BY_DIGEST = "*/manifests/sha256:*"
TWO = Upstream("https://one.example", ("https://one.example", "https://two.example"))


class ManifestTestCase(HouseTestCase):
    """An origin with the tag ``v1``."""

    def tagged(self, *upstreams: Upstream, content: bytes = OLD, **options: Any) -> House:
        """A house whose origins have ``v1``."""
        house = self.house(*upstreams, **options)
        for origin in house.origins.values():
            self.digest = origin.put_manifest(REPOSITORY, content, MANIFEST, "v1")
        return house

    def immutable(self, **options: Any) -> House:
        """The same with tags that never move."""
        upstream = Upstream("https://one.example", ("https://one.example",), immutabletags="v*")
        return self.tagged(upstream, **options)

    def head(self, house: House, tag: str = "v1") -> ContentHead:
        """What a HEAD of a tag is answered."""
        return self.result(house.tags.describe(house.tag_asking(tag)))

    def assertManifest(self, client: Client, content: bytes, media_type: str | None = MANIFEST) -> None:
        """The client has got a manifest of this type."""
        self.assertWhole(client, content)
        assert client.served is not None
        self.assertEqual(client.served.media_type, media_type)

    def assertNotStored(self, house: House, content: bytes) -> None:
        """The store has not got it."""
        self.assertNotIn(Digest.of(content), [file.digest for file in house.store.blobs()])


class UnverifiedTests(ManifestTestCase):
    """What is no manifest is neither stored nor what a tag means."""

    def test_page_for_a_tag(self) -> None:
        """A page of HTML with status 200 is a failure of upstream, and the tag keeps its meaning."""
        house = self.tagged(staleiferror=600.0)
        house.pull_tag("v1")
        house.origin.misbehave("portal")
        self.assertManifest(house.pull_tag("v1"), OLD)
        self.assertEqual(self.head(house).media_type, MANIFEST)
        house.wire.down.add("one.example")
        self.assertManifest(house.pull_tag("v1"), OLD)
        self.assertNotStored(house, PAGE)

    def test_page_for_an_unknown_tag(self) -> None:
        """Nor does a tag that was not known mean the page."""
        house = self.immutable()
        house.pull_tag("v1")
        house.origin.misbehave("portal")
        self.assertRefused(house.pull_tag("v2"), 502)
        self.error(house.tags.describe(house.tag_asking("v2")), UpstreamBroken)
        house.origin.behave()
        house.later(31)  # the host has failed
        house.origin.put_manifest(REPOSITORY, NEW, MANIFEST, "v2")
        self.assertManifest(house.pull_tag("v2"), NEW)

    def test_page_of_one_host(self) -> None:
        """Where one host sends a page the next one is asked, and the first is unhealthy."""
        house = self.tagged(TWO)
        for origin in house.origins.values():
            origin.misbehave("without", method="HEAD")
        house.origins["one.example"].misbehave("portal", method="GET")
        house.registries[0].order("manifests")  # now it is that host's turn for a GET
        self.assertManifest(house.pull_tag("v1"), OLD)
        self.assertIn(("https://one.example", False), house.registries[0].health())

    def test_by_digest(self) -> None:
        """A digest whose content is a page is a failure of upstream too, each time, and nothing is stored."""
        house = self.house()
        digest = house.origin.put_manifest(REPOSITORY, PAGE, "text/html", "v1")
        for _ in range(2):
            client = house.pull(digest, kind="manifests")
            self.assertRefused(client, 502)
            self.assertIsInstance(client.outcome, ManifestInvalid)
            self.assertRefused(house.pull_tag("v1"), 502)
        self.assertNotStored(house, PAGE)

    def test_stored_as_blob(self) -> None:
        """A stored blob that is no manifest is not served as one, whatever the origin says."""
        house = self.house()
        house.origin.put_blob(REPOSITORY, PAGE)
        digest = house.origin.put_manifest(REPOSITORY, PAGE, MANIFEST, "v1")
        self.assertWhole(house.pull(digest), PAGE)
        self.assertRefused(house.pull_tag("v1"), 502)
        self.assertRefused(house.pull(digest, kind="manifests"), 502)
        self.assertWhole(house.pull(digest), PAGE)

    def test_another_type_than_its_own(self) -> None:
        """A manifest under another type than its own passes as upstream sent it, and counts for nothing."""
        for by_tag in (True, False):
            house = self.tagged(staleiferror=600.0)
            house.origin.misbehave("with", header="Content-Type", value="text/html; charset=utf-8")
            if by_tag:
                house.origin.misbehave("without", method="HEAD")
            self.assertManifest(house.pull_tag("v1"), OLD, "text/html; charset=utf-8")
            self.assertNotStored(house, OLD)
            house.wire.down.add("one.example")
            self.assertEqual(house.pull_tag("v1").status, 503)

    def test_digest_named_by_head_alone(self) -> None:
        """What HEAD names becomes the meaning of a tag when its manifest has come, and not before."""
        house = self.tagged(staleiferror=600.0)
        house.pull_tag("v1")
        unknown = Digest.of(b"never delivered")
        house.origin.misbehave("with", method="HEAD", header="Docker-Content-Digest", value=str(unknown))
        self.assertEqual(self.head(house).digest, unknown)
        house.wire.down.add("one.example")
        self.assertManifest(house.pull_tag("v1"), OLD)

    def test_head_then_get_by_digest(self) -> None:
        """HEAD of the tag and GET of the digest, as containerd pulls, are enough for the tag to be known."""
        house = self.tagged(staleiferror=600.0)
        for content in (OLD, NEW):
            digest = house.origin.put_manifest(REPOSITORY, content, MANIFEST, "v1")
            self.assertEqual(self.head(house).digest, digest)
            self.assertWhole(house.pull(digest, kind="manifests"), content)
        self.head(house)
        house.wire.down.add("one.example")
        self.assertManifest(house.pull_tag("v1"), NEW)
        self.assertEqual(self.head(house).digest, Digest.of(NEW))

    def test_gone(self) -> None:
        """A tag that is gone is known no more, verified or not."""
        house = self.tagged(staleiferror=600.0)
        self.head(house)
        house.pull(self.digest, kind="manifests")
        house.origin.misbehave("status", status=404, times=2)
        self.assertRefused(house.pull_tag("v1"), 404)
        house.wire.down.add("one.example")
        self.assertRefused(house.pull_tag("v1"), 503)

    def test_vendor(self) -> None:
        """A manifest of a type that nobody here knows is stored as any."""
        house = self.house()
        content = json.dumps({"mediaType": VENDOR, "thing": True}).encode()
        house.origin.put_manifest(REPOSITORY, content, VENDOR, "v1")
        self.assertManifest(house.pull_tag("v1", None, VENDOR), content, VENDOR)
        house.origin.requests.clear()
        self.assertManifest(house.pull_tag("v1", None, VENDOR), content, VENDOR)
        self.assertEqual(house.origin.count("GET"), 0)


class PrecedenceTests(ManifestTestCase):
    """What GET said, and what is stored, beats what HEAD says."""

    def misbehave_heads(self, house: House, header: str, value: str | None) -> None:
        """From now on a header of HEAD says this, or is missing."""
        if value is not None:
            house.origin.misbehave("with", method="HEAD", header=header, value=value)
        elif header == "Content-Length":
            house.origin.misbehave("chunked", method="HEAD")
        else:
            house.origin.misbehave("without", method="HEAD", header=header)

    def test_media_type(self) -> None:
        """HEAD without a type, or with a wrong one: the first time, the second, by digest, and for HEAD."""
        for content in (OLD, PLAIN):
            for value in (None, "text/plain; charset=utf-8"):
                house = self.tagged(content=content)
                self.misbehave_heads(house, "Content-Type", value)
                self.assertManifest(house.pull_tag("v1"), content)
                self.assertManifest(house.pull_tag("v1"), content)
                self.assertManifest(house.pull(self.digest, kind="manifests"), content)
                self.assertEqual(self.head(house).media_type, MANIFEST)
                by_digest = self.result(
                    house.blob_service.describe(house.asking(self.digest, kind="manifests"))
                )
                self.assertEqual((by_digest.media_type, by_digest.size), (MANIFEST, len(content)))

    def test_undeclared_type(self) -> None:
        """A manifest that declares no type keeps the one that GET said, over HEADs that say another."""
        house = self.house()
        digest = house.origin.put_manifest(REPOSITORY, b'{"thing": 1}', VENDOR, "v1")
        house.pull_tag("v1")
        house.origin.misbehave("with", method="HEAD", header="Content-Type", value="application/other+json")
        for fast in (True, False):
            house.furnish(fastpath=fast)
            self.assertManifest(house.pull_tag("v1"), b'{"thing": 1}', VENDOR)
            self.assertManifest(house.pull(digest, kind="manifests"), b'{"thing": 1}', VENDOR)

    def test_no_type_at_all(self) -> None:
        """A manifest without a type from anybody is what it looks like."""
        house = self.tagged(content=PLAIN)
        house.origin.misbehave("without", header="Content-Type")
        for _ in range(2):
            self.assertManifest(house.pull_tag("v1"), PLAIN)

    def test_length(self) -> None:
        """HEAD without a length, or with 0: the true one, which costs the GET that comes next anyway."""
        for value in (None, "0"):
            house = self.tagged()
            self.misbehave_heads(house, "Content-Length", value)
            for described in (
                self.head(house),
                self.head(house),
                self.result(house.blob_service.describe(house.asking(self.digest, kind="manifests"))),
            ):
                self.assertEqual(described.size, len(OLD))
            self.assertManifest(house.pull_tag("v1"), OLD)
            self.assertEqual(house.origin.count("GET"), 1)

    def test_length_of_a_blob(self) -> None:
        """HEAD of a blob without a length, or with 0: the total that GET of its first byte says."""
        for value in (None, "0"):
            house = self.house()
            digest = house.origin.put_blob(REPOSITORY, LARGE)
            self.misbehave_heads(house, "Content-Length", value)
            described = self.result(house.blob_service.describe(house.asking(digest)))
            self.assertEqual(described.size, len(LARGE))
            part = house.pull(digest, part=(10, 20), whole=False)
            self.assertWhole(part, LARGE[10:20])

    def test_no_length_anywhere(self) -> None:
        """Where nobody says a length it is unknown, and the blob comes whole."""
        house = self.house()
        digest = house.origin.put_blob(REPOSITORY, LARGE)
        house.origin.misbehave("whole")
        house.origin.misbehave("chunked")
        self.assertIsNone(self.result(house.blob_service.describe(house.asking(digest))).size)
        self.assertWhole(house.pull(digest, whole=False), LARGE)

    def test_empty_blob(self) -> None:
        """A length of 0 is true of the empty blob."""
        house = self.house()
        digest = house.origin.put_blob(REPOSITORY, b"")
        self.assertEqual(self.result(house.blob_service.describe(house.asking(digest))).size, 0)


class NoticeTests(ManifestTestCase):
    """What the origin tells a client besides the manifest."""

    def test_tags(self) -> None:
        """Warnings and rate limits come with HEAD and GET of a tag, cold and warm, but not when stale."""
        house = self.tagged(staleiferror=600.0)
        notices: Headers = {"Warning": '299 - "goes away"', "RateLimit-Remaining": "7;w=21600"}
        for name, value in notices.items():
            house.origin.misbehave("with", header=name, value=str(value))
        self.assertEqual(self.head(house).notices, notices)
        for _ in range(2):
            client = house.pull_tag("v1")
            assert client.served is not None
            self.assertEqual(client.served.notices, notices)
        house.origin.misbehave("without", method="HEAD")
        self.assertEqual(self.head(house).notices, notices)
        house.wire.down.add("one.example")
        self.assertEqual(self.head(house).notices, {})

    def test_by_digest(self) -> None:
        """They come with a digest where the origin is asked in the client's name, and are not kept."""
        house = self.tagged()
        house.origin.misbehave("with", header="RateLimit-Remaining", value="7")
        asking = house.asking(self.digest, kind="manifests")
        self.assertEqual(
            self.result(house.blob_service.describe(asking)).notices, {"RateLimit-Remaining": "7"}
        )
        house.later(61)
        for expected in ({"RateLimit-Remaining": "7"}, {}):
            client = house.pull(self.digest, kind="manifests")
            assert client.served is not None
            self.assertEqual(client.served.notices, expected)
