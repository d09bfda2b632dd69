"""What is not the registry's own word: redirects, and pages for people."""

from __future__ import annotations

import errno
from itertools import product
from random import Random
from typing import Any, Final

from attrs import evolve

from contentcache.core.credentials import ANONYMOUS
from contentcache.core.errors import UpstreamBroken
from contentcache.storage.memory import MemoryStore
from tests.bad_registry import BadRegistry
from tests.delivery.in_memory import MANIFEST, REPOSITORY, Client, InMemoryCache, InMemoryCacheTestCase
from tests.misbehaviour import Asked, Reply, refusal, unsatisfiable
from tests.storage.faults import FaultyStore

NOISE: Final = Random(7).randbytes(300_000)
STORAGE: Final = "https://storage.example/storage/"


class SignInPage(BadRegistry):
    """A place that answers every request with 200 and the same page."""

    def __init__(self, media_type: str, page: bytes) -> None:
        super().__init__()
        self._media_type = media_type
        self._page = page

    def answer(self, asked: Asked) -> Reply:
        """The page."""
        self.requests.append(asked)
        return Reply(200, {"Content-Type": self._media_type}, self._page, self._page, length=len(self._page))


ALICE: Final = "Basic YWxpY2U6MQ=="


class PageForStrangers(BadRegistry):
    """A registry that shows a page to whoever does not sign in."""

    def __init__(self, media_type: str, page: bytes) -> None:
        super().__init__()
        self._media_type = media_type
        self._page = page

    def _honest(self, asked: Asked) -> Reply:
        if "authorization" in asked.headers:
            return super()._honest(asked)
        return Reply(200, {"Content-Type": self._media_type}, self._page, self._page, length=len(self._page))


class DoubtfulTestCase(InMemoryCacheTestCase):
    """Begins with a blob that an honest client has pulled from the registry itself."""

    def stored(self, **options: Any) -> InMemoryCache:
        """A cache, in which grants are over."""
        cache = self.make_cache(**options)
        self.digest = cache.origin.put_blob(REPOSITORY, NOISE)
        self.storage = cache.wire.hosts["storage.example"] = BadRegistry()
        self.storage.put_blob("any", NOISE)
        self.assertWhole(cache.pull(self.digest), NOISE)
        cache.later(60)
        cache.origin.requests.clear()
        return cache

    def redirect(self, cache: InMemoryCache, to: str, status: int = 307) -> None:
        """The registry redirects from now on."""
        cache.origin.misbehave("redirect", to=to, status=status, path="/v2/*")

    def assert_no_grant(self, cache: InMemoryCache) -> None:
        """Nothing has let the anonymous client in."""
        self.assertFalse(cache.authorization.is_granted(cache.registries[0].subject(REPOSITORY, ANONYMOUS)))


class StoredTests(DoubtfulTestCase):
    """A question about a stored blob."""

    def test_sign_in_page(self) -> None:
        """A redirect to a page, of whatever type and on whichever host, opens nothing and grants nothing."""
        for media_type, page in (
            ("text/html", b"<html>sign in</html>"),
            ("text/html; charset=utf-8", bytes(len(NOISE))),
            ("text/plain", b"sign in"),
        ):
            for to in ("https://login.example/?next=x", "/login"):
                cache = self.stored()
                cache.wire.hosts["login.example"] = SignInPage(media_type, page)
                self.redirect(cache, to, 302)
                if to == "/login":
                    self.page_at_home(cache, SignInPage(media_type, page))
                for whole in (True, False):
                    client = cache.pull(self.digest, whole=whole)
                    self.assertRefused(client, 502)
                error = self.error(cache.blob_service.describe(cache.asking(self.digest)), UpstreamBroken)
                self.assertEqual(error.status, 502)
                self.assert_no_grant(cache)

    def page_at_home(self, cache: InMemoryCache, page: SignInPage) -> None:
        """The registry's own host has the page, too."""
        answer = cache.origin.answer

        def routed(asked: Asked) -> Reply:
            return page.answer(asked) if asked.path.startswith("/login") else answer(asked)

        cache.origin.answer = routed  # type: ignore[method-assign]

    def test_page_without_redirect(self) -> None:
        """A page with 200 of the registry's own host is no answer either."""
        cache = self.stored()
        cache.origin.misbehave("portal")
        self.assertRefused(cache.pull(self.digest), 502)
        self.assert_no_grant(cache)

    def test_json_page_without_redirect(self) -> None:
        """A 200 whose length is not that of the blob opens nothing unless GET shows the blob."""
        for media_type in ("application/json", "text/plain", "application/octet-stream"):
            for looks in (True, False):
                cache = self.stored()
                cache.wire.hosts["one.example"] = SignInPage(media_type, b'{"errors": []}')
                if looks:
                    self.error(cache.blob_service.describe(cache.asking(self.digest)), UpstreamBroken)
                else:
                    self.assertRefused(cache.pull(self.digest), 502)
                self.assert_no_grant(cache)

    def test_wrong_length_of_head(self) -> None:
        """A registry whose HEAD alone states another length is believed: it costs one small request."""
        cache = self.stored()
        cache.origin.misbehave("resized", method="HEAD", by=-1)
        for _ in range(2):
            self.assertWhole(cache.pull(self.digest), NOISE)
        self.assertEqual(
            [(one.method, one.headers.get("range")) for one in cache.origin.requests],
            [("HEAD", None), ("GET", "bytes=0-0")],
        )

    def test_storage(self) -> None:
        """A redirect to the blob is allowed, once what it leads to has answered; no credential goes there."""
        for status in (301, 302, 303, 307, 308):
            cache = self.stored()
            self.redirect(cache, STORAGE + str(self.digest), status)
            self.assertWhole(cache.pull(self.digest, "Basic YW5uOjE="), NOISE)
            self.assertEqual([one.method for one in cache.origin.requests], ["HEAD", "GET"])
            (asked,) = self.storage.requests
            self.assertEqual((asked.method, asked.headers["range"]), ("GET", "bytes=0-0"))
            self.assertNotIn("authorization", asked.headers)

    def test_storage_that_refuses(self) -> None:
        """A redirect to nothing, to a refusal, or to another length is not allowed."""
        for manner in (
            {"name": "status", "status": 403},
            {"name": "status", "status": 404},
            {"name": "resized", "by": 5},
            {"name": "reset"},
        ):
            cache = self.stored()
            self.storage.misbehave(**manner)
            self.redirect(cache, STORAGE + str(self.digest))
            self.assertRefused(cache.pull(self.digest), 502)
            self.assert_no_grant(cache)

    def test_length_is_not_told(self) -> None:
        """Where the storage does not state a length, that it answers is enough."""
        cache = self.stored()
        self.storage.misbehave("whole")
        self.storage.misbehave("chunked")
        self.redirect(cache, STORAGE + str(self.digest))
        self.assertWhole(cache.pull(self.digest), NOISE)

    def test_known_storage(self) -> None:
        """A host that has delivered verified bytes of this origin need not be followed, within affirmttl."""
        cache = self.stored()
        other = cache.origin.put_blob(REPOSITORY, NOISE[1:])
        self.storage.put_blob("any", NOISE[1:])
        self.redirect(cache, STORAGE + str(other))
        self.assertWhole(cache.pull(other), NOISE[1:])
        cache.later(60)
        cache.origin.requests.clear()
        self.storage.requests.clear()
        self.assertWhole(cache.pull(self.digest), NOISE)
        self.assertEqual([one.method for one in cache.origin.requests], ["HEAD"])
        self.assertEqual(self.storage.requests, [])


class ColdTests(DoubtfulTestCase):
    """What is not stored."""

    def test_page_grants_nothing(self) -> None:
        """A page that comes instead of a blob is nobody's right to others."""
        for media_type in ("text/html", "text/plain"):
            cache = self.stored()
            cache.wire.hosts["login.example"] = SignInPage(media_type, b"sign in" * 5000)
            self.redirect(cache, "https://login.example/?next=x", 302)
            cold = cache.origin.put_blob(REPOSITORY, b"cold")
            for _ in range(2):
                cache.later(60)
                self.assertNotEqual(cache.pull(cold).outcome, "whole")
                self.assert_no_grant(cache)
                Client(cache.blob_service.get(cache.asking(cold), whole=False), (0, 5), takes=True)
                self.assert_no_grant(cache)
                self.assertRefused(cache.pull(self.digest), 502)
            cache.later(120)

    def test_storage_grants_when_verified(self) -> None:
        """What a redirect has brought makes a grant and a link, once it is verified."""
        cache = self.stored()
        cold = cache.origin.put_blob(REPOSITORY, NOISE[1:])
        self.storage.put_blob("any", NOISE[1:])
        self.redirect(cache, STORAGE + str(cold))
        self.storage.misbehave("stall", at=200_000, times=1)
        client = cache.pull(cold)
        self.assert_no_grant(cache)
        self.storage.release()
        self.assertWhole(client, NOISE[1:])
        cache.origin.requests.clear()
        self.assertWhole(cache.pull(cold), NOISE[1:])
        self.assertEqual(cache.origin.requests, [])

    def test_page_shuts_nobody_out(self) -> None:
        """What an origin shows to one client is no reason to refuse another one, and no byte of what it gets."""
        for media_type, page in (
            ("text/html", b"<html>sign in</html>"),
            ("application/json", b'{"errors": []}'),
            ("application/octet-stream", b'{"errors": []}'),
        ):
            for breaks in (False, True):
                cache = self.make_cache()
                origin = cache.wire.hosts["one.example"] = PageForStrangers(media_type, page)
                cold = origin.put_blob(REPOSITORY, NOISE)
                manifest = origin.put_manifest(REPOSITORY, ManifestTests.manifest, MANIFEST)
                if breaks:
                    origin.misbehave("short", at=10, path="*/blobs/*")
                for _ in range(3):
                    self.assertNotEqual(cache.pull(cold).outcome, "whole")
                    self.assertNotEqual(cache.pull(manifest, kind="manifests").outcome, "whole")
                cache.later(60 if breaks else 0)
                origin.behave()
                origin.misbehave("stall", at=200_000, path="*/blobs/*", method="GET", times=1)
                alice = cache.pull(cold, ALICE)
                self.assertEqual(bytes(alice.got), NOISE[: len(alice.got)])
                origin.release()
                self.assertWhole(alice, NOISE)
                self.assertWhole(cache.pull(manifest, ALICE, kind="manifests"), ManifestTests.manifest)

    def test_bytes_of_an_earlier_download(self) -> None:
        """A page does not open the part of a blob that is here already."""
        cache = self.stored()
        cold = cache.origin.put_blob(REPOSITORY, NOISE[1:])
        cache.origin.misbehave("stall", at=200_000)
        first = cache.pull(cold)
        cache.wire.down.add("one.example")
        cache.later(120)
        self.assertEqual(first.outcome, "short")
        cache.wire.down.clear()
        cache.origin.behave()
        cache.later(120)
        cache.furnish()
        cache.wire.hosts["login.example"] = SignInPage("text/plain", bytes(400_000))
        self.redirect(cache, "https://login.example/?next=x", 302)
        thief = cache.pull(cold)
        cache.later(120)
        self.assertFalse(NOISE[1:1000] in bytes(thief.got))


class NoRangesStorage(BadRegistry):
    """Storage that refuses every request for a part, in its own ``way``, and every ``HEAD`` unless ``heads``."""

    def __init__(self, way: str = "403", *, heads: bool = False) -> None:
        super().__init__()
        self.way = way
        self.heads = heads

    def answer(self, asked: Asked) -> Reply:
        """The whole, or a refusal."""
        reply = super().answer(asked)
        if asked.method == "HEAD":
            return reply if self.heads else refusal(reply, status=403)
        return self._part(reply, reply.status) if "range" in asked.headers else reply

    def _part(self, reply: Reply, status: int) -> Reply:
        size = len(reply.content)
        match self.way:
            case "416 with the size":
                return unsatisfiable(reply)
            case "other bytes":
                length = len(reply.body)
                body = reply.content[:length]
                sent = evolve(reply, body=body, start=0, length=length)
                return sent.saying(Content_Range=f"bytes 0-{length - 1}/{size}")
            case "206 of everything":
                sent = evolve(reply, status=206, body=reply.content, start=0, length=size)
                return sent.saying(Content_Range=f"bytes 0-{size - 1}/{size}")
            case "206 to the end":
                rest = reply.content[reply.start :]
                sent = evolve(reply, body=rest, length=len(rest))
                return sent.saying(Content_Range=f"bytes {reply.start}-{size - 1}/{size}")
            case "multipart":
                sent = evolve(reply, status=206, body=b"--x", length=3)
                return sent.saying(Content_Range="", Content_Type="multipart/byteranges; boundary=x")
            case way:
                return refusal(reply, status=int(way))


#: How storage may refuse a part.
WAYS: Final = (
    *("400", "403", "404", "405", "416", "501"),
    *("416 with the size", "other bytes", "206 of everything", "206 to the end", "multipart"),
)


class NoRangesTests(DoubtfulTestCase):
    """Storage behind a registry that signs URLs for one kind of request only."""

    def refusing(self, way: str = "403", **options: Any) -> InMemoryCache:
        """Everything is redirected to such storage."""
        cache = self.stored(**options)
        self.cold = cache.origin.put_blob(REPOSITORY, NOISE[1:])
        self.storage = cache.wire.hosts["storage.example"] = NoRangesStorage(way)
        self.storage.put_blob("any", NOISE)
        self.storage.put_blob("any", NOISE[1:])
        return cache

    def test_part_of_a_cold_blob(self) -> None:
        """A part is answered from the whole; a look at the blob tells its length; no host is set back."""
        for way in WAYS:
            cache = self.refusing(way)
            self.redirect(cache, STORAGE + str(self.cold))
            described = self.result(cache.blob_service.describe(cache.asking(self.cold)))
            self.assertEqual(described.size, len(NOISE) - 1, way)
            part = cache.pull(self.cold, part=(250_000, 250_010), whole=False)
            self.assertEqual(part.outcome, "whole", way)
            self.assertTrue(bytes(part.got) == NOISE[250_001:250_011], way)
            self.assertTrue(all(well for _, well in cache.registries[0].health()), way)

    def test_resumed(self) -> None:
        """A download that was interrupted goes on, and so does one after a restart."""
        for way, restart in product(WAYS, (False, True)):
            cache = self.refusing(way)
            self.storage.misbehave("stall", at=200_000, times=1)
            self.redirect(cache, STORAGE + str(self.cold))
            first = cache.pull(self.cold)
            if restart:
                cache.wire.down.add("one.example")
                cache.later(120)
                self.assertEqual(first.outcome, "short", way)
                cache.wire.down.clear()
                cache.furnish()
                first = cache.pull(self.cold)
            cache.later(120)
            self.assertEqual(first.outcome, "whole", (way, restart))
            self.assertTrue(bytes(first.got) == NOISE[1:], (way, restart))

    def test_stored(self) -> None:
        """A stored blob is served once the storage has answered, and proved where that is needed."""
        for way in WAYS:
            cache = self.refusing(way)
            self.redirect(cache, STORAGE + str(self.digest))
            self.assertEqual(cache.pull(self.digest).outcome, "whole", way)
            cache.index.forget([self.digest])
            cache.blob_service.lost_index()
            self.assertEqual(cache.pull(self.digest).outcome, "whole", way)

    def test_passed_through(self) -> None:
        """Where the disk takes nothing, parts are answered from the whole too."""
        for way in WAYS:
            store = FaultyStore(MemoryStore())
            cache = self.refusing(way, store=store)
            store.break_down(errno.ENOSPC, "resume")
            self.redirect(cache, STORAGE + str(self.cold))
            part = cache.pull(self.cold, part=(250_000, 250_010), whole=False)
            self.assertWhole(part, NOISE[250_001:250_011])

    def test_registry_itself(self) -> None:
        """The same where the registry itself answers a part so; it stays healthy."""
        for way in WAYS[WAYS.index("416") :]:
            cache = self.refusing(way)
            cache.wire.hosts["one.example"] = NoRangesStorage(way, heads=True)
            cache.wire.hosts["one.example"].put_blob(REPOSITORY, NOISE[1:])
            client = cache.pull(self.cold, part=(250_000, 250_010), whole=False)
            self.assertWhole(client, NOISE[250_001:250_011])
            self.assertTrue(all(well for _, well in cache.registries[0].health()), way)


class ManifestTests(DoubtfulTestCase):
    """Manifests, of which only the manifest itself is proof, where the registry redirects."""

    manifest = b'{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json"}'

    def test_by_digest(self) -> None:
        """The manifest, from wherever it comes, is the registry's word; anything else is not."""
        for honest in (True, False):
            cache = self.make_cache()
            digest = cache.origin.put_manifest(REPOSITORY, self.manifest, MANIFEST)
            self.assertWhole(cache.pull(digest, kind="manifests"), self.manifest)
            cache.later(60)
            page = self.manifest if honest else b'{"schemaVersion": 2}'
            cache.wire.hosts["other.example"] = SignInPage(MANIFEST, page)
            self.redirect(cache, "https://other.example/manifest")
            client = cache.pull(digest, kind="manifests")
            if honest:
                self.assertWhole(client, self.manifest)
            else:
                self.assertRefused(client, 502)
                self.assert_no_grant(cache)

    def test_json_page_by_digest(self) -> None:
        """A 200 whose length is not that of the stored manifest opens nothing, to HEAD neither."""
        for looks in (True, False):
            cache = self.make_cache()
            digest = cache.origin.put_manifest(REPOSITORY, self.manifest, MANIFEST)
            self.assertWhole(cache.pull(digest, kind="manifests"), self.manifest)
            cache.later(60)
            cache.wire.hosts["one.example"] = SignInPage("application/json", b'{"errors": []}')
            if looks:
                self.error(
                    cache.blob_service.describe(cache.asking(digest, kind="manifests")), UpstreamBroken
                )
            else:
                self.assertRefused(cache.pull(digest, kind="manifests"), 502)
            self.assert_no_grant(cache)

    def test_tag(self) -> None:
        """A HEAD of a tag that another place answers, or that is a page, is asked again as GET."""
        cache = self.make_cache()
        cache.origin.put_manifest(REPOSITORY, self.manifest, MANIFEST, "latest")
        other = cache.wire.hosts["other.example"] = BadRegistry()
        other.put_manifest(REPOSITORY, self.manifest, MANIFEST, "latest")
        self.redirect(cache, f"https://other.example/v2/{REPOSITORY}/manifests/latest")
        self.assertWhole(cache.pull_tag("latest"), self.manifest)
        self.assertEqual([one.method for one in other.requests], ["HEAD", "GET"])

    def test_tag_page(self) -> None:
        """What a redirect of a tag leads to, or a page, makes no grant unless it is a manifest."""
        errors = b'{"errors": [{"code": "DENIED"}]}'
        for to in ("https://login.example/", ""):
            for media_type, body, status in (
                ("application/json", errors, 502 if to else 200),
                ("text/html", errors, 502),
                (MANIFEST, errors, 502),
                ("application/json", self.manifest, 200),
                ("text/html", self.manifest, 200),
            ):
                if not to and (
                    media_type == MANIFEST or (body == self.manifest and media_type != "text/html")
                ):
                    continue  # the registry itself says so
                cache = self.stored()
                cache.origin.put_manifest(REPOSITORY, self.manifest, MANIFEST, "latest")
                page = SignInPage(media_type, body)
                cache.wire.hosts["login.example" if to else "one.example"] = page
                if to:
                    self.redirect(cache, to)
                client = cache.pull_tag("latest")
                self.assertEqual(client.status, status, (to, media_type))
                self.assert_no_grant(cache)


class PingTests(DoubtfulTestCase):
    """``/v2/``."""

    def test_page(self) -> None:
        """A page is not the registry's answer, and is not remembered."""
        cache = self.stored()
        cache.wire.hosts["login.example"] = SignInPage("application/json", b"{}")
        cache.origin.misbehave("portal", times=1)
        registry = cache.registries[0]
        self.error(cache.origin_queries.ping(registry, registry.subject(None, ANONYMOUS), ""), UpstreamBroken)
        cache.origin.misbehave("redirect", to="https://login.example/", times=1)
        self.error(cache.origin_queries.ping(registry, registry.subject(None, ANONYMOUS), ""), UpstreamBroken)
        cache.later(30)
        self.assertEqual(
            self.result(cache.origin_queries.ping(registry, registry.subject(None, ANONYMOUS), "")).status,
            200,
        )
