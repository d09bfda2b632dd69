"""A fetch shared by clients of different credentials, and registries whose HEAD is not to be trusted."""

from __future__ import annotations

from typing import Any

from contentcache.config.model import Limits
from contentcache.core.credentials import OWN
from contentcache.core.digest import Digest
from contentcache.core.errors import OriginRefused, Overloaded
from contentcache.delivery.requests import ContentRequest
from tests.bad_registry import BadRegistry
from tests.delivery.in_memory import LARGE, MANIFEST, REPOSITORY, Client, InMemoryCache, InMemoryCacheTestCase
from tests.misbehaviour import Asked, Reply, refusal

HALF = len(LARGE) // 2


class CredentialTests(InMemoryCacheTestCase):
    """A fetch goes on in the name of anybody who is attached, and a no is his alone whom it was said to."""

    def shared(self) -> InMemoryCache:
        """Ann and Bob may both read the blob."""
        cache = self.make_cache(auth="basic")
        self.ann = cache.origin.let("ann", "1", REPOSITORY)
        self.bob = cache.origin.let("bob", "2", REPOSITORY)
        self.digest = cache.origin.put_blob(REPOSITORY, LARGE)
        return cache

    def test_another_credential_goes_on(self) -> None:
        """Ann's credential ends in the middle; the fetch goes on with Bob's, for both."""
        cache = self.shared()
        cache.origin.misbehave("stall", method="GET", at=HALF, times=1)
        ann, bob = cache.pull(self.digest, self.ann), cache.pull(self.digest, self.bob)
        cache.origin.let("ann", "1")
        cache.later(31)
        self.assertWhole(ann, LARGE)
        self.assertWhole(bob, LARGE)
        credentials = [asked.headers.get("authorization") for asked in cache.origin.asked("GET")]
        self.assertEqual(credentials, [self.ann, self.ann, self.bob])

    def test_a_no_is_nobody_elses(self) -> None:
        """Ann's request begins the fetch and is refused; Bob, who waits for it too, is served."""
        cache = self.shared()
        cache.origin.let("ann", "1")
        cache.origin.misbehave("slow", method="GET", seconds=1.0)
        ann, bob = cache.pull(self.digest, self.ann), cache.pull(self.digest, self.bob)
        cache.later(3)
        self.assertRefused(ann, 401)
        self.assertWhole(bob, LARGE)

    def test_nobody_is_left(self) -> None:
        """When all credentials are refused in the middle, the responses end short and the rest is kept."""
        cache = self.shared()
        cache.origin.misbehave("stall", method="GET", at=HALF, times=1)
        ann, bob = cache.pull(self.digest, self.ann), cache.pull(self.digest, self.bob)
        cache.origin.let("ann", "1")
        cache.origin.let("bob", "2")
        cache.later(31)
        self.assertEqual((ann.outcome, bob.outcome), ("short", "short"))
        self.assertEqual(len(list(cache.store.partials())), 1)

    def test_own_account(self) -> None:
        """The cache's own account is a credential like another, and the clients' are not used for it."""
        cache = self.make_cache()
        digest = cache.origin.put_blob(REPOSITORY, LARGE)
        self.assertWhole(cache.pull(digest, credential=OWN), LARGE)
        self.assertNotIn("authorization", cache.origin.requests[0].headers)
        cache.pull(digest)
        self.assertEqual(cache.origin.count("HEAD"), 1)


class LyingHeadTests(InMemoryCacheTestCase):
    """Registries that do not answer HEAD of blobs truthfully."""

    def lying(self, status: int = 401, content: bytes = LARGE, **options: Any) -> InMemoryCache:
        """A warm blob at a registry that says no to every HEAD of a blob."""
        cache = self.make_cache(**options)
        self.digest = cache.origin.put_blob(REPOSITORY, content)
        cache.origin.misbehave("status", method="HEAD", path="*/blobs/*", status=status)
        cache.pull(self.digest)
        cache.later(61)
        cache.origin.requests.clear()
        return cache

    def test_checked_once_by_get(self) -> None:
        """The no is checked with a GET of one byte; from then on only that is asked."""
        for status in (401, 404, 405):
            cache = self.lying(status)
            self.assertWhole(cache.pull(self.digest), LARGE)
            asked = [(one.method, one.headers.get("range")) for one in cache.origin.requests]
            self.assertEqual(asked, [("HEAD", None), ("GET", "bytes=0-0")])
            cache.later(61)
            self.assertWhole(cache.pull(self.digest), LARGE)
            self.assertEqual(cache.origin.count("HEAD"), 1)

    def test_empty_blob(self) -> None:
        """An empty blob has no first byte to ask for: it is asked for whole."""
        cache = self.lying(content=b"")
        self.assertWhole(cache.pull(self.digest), b"")
        asked = [(one.method, one.headers.get("range")) for one in cache.origin.requests]
        self.assertEqual(asked, [("HEAD", None), ("GET", "bytes=0-0"), ("GET", None)])

    def test_true_no(self) -> None:
        """A no that GET confirms is a no, and the registry is no liar."""
        cache = self.lying()
        cache.origin.misbehave("status", method="GET", status=401)
        self.assertRefused(cache.pull(self.digest), 401)

    def test_yes_to_head_and_no_to_get(self) -> None:
        """Who was told yes by HEAD and no by GET gets the no, with its status."""
        cache = self.make_cache()
        digest = cache.origin.put_blob(REPOSITORY, LARGE)
        cache.origin.misbehave("status", method="GET", status=404)
        self.result(cache.blob_service.describe(cache.asking(digest)))
        self.assertRefused(cache.pull(digest), 404)

    def test_describe_behind_a_redirect(self) -> None:
        """Where the registry leaves the size to storage, storage is asked; and a no is a no."""
        cache = self.make_cache()
        digest = cache.origin.put_blob(REPOSITORY, LARGE)
        to = f"https://one.example/storage/{digest}"
        cache.origin.misbehave("redirect", path="/v2/*", to=to)
        described = self.result(cache.blob_service.describe(cache.asking(digest)))
        self.assertEqual(described.size, len(LARGE))
        cache.origin.behave()
        cache.origin.misbehave("status", status=404)
        error = self.error(cache.blob_service.describe(cache.asking(digest)), OriginRefused)
        self.assertEqual(error.status, 404)

    def test_describe_empty_behind_a_redirect(self) -> None:
        """The size of an empty blob in storage is nought, and not that of storage's error."""
        cache = self.make_cache()
        cache.wire.hosts["storage.example"] = cache.origin
        digest = cache.origin.put_blob(REPOSITORY, b"")
        to = f"https://storage.example/storage/{digest}"
        cache.origin.misbehave("redirect", path="/v2/*", to=to)
        described = self.result(cache.blob_service.describe(cache.asking(digest)))
        self.assertEqual(described.size, 0)


class TurnTests(InMemoryCacheTestCase):
    """So many fetches at once."""

    def busy(self) -> tuple[InMemoryCache, list[Any]]:
        """One place, which is taken; and Ann's other wishes before Bob's."""
        cache = self.make_cache(limits=Limits(fetches=1))
        cache.origin.misbehave("stall", at=-1)
        blobs = [cache.origin.put_blob(REPOSITORY, b"%d" % number) for number in range(4)]
        ann = [cache.pull(digest, "Basic YTox") for digest in blobs[:3]]
        return cache, [*ann, cache.pull(blobs[3], "Basic Yjox")]

    def test_fair_between_credentials(self) -> None:
        """Who asks for a thousand delays the others by one."""
        cache, _clients = self.busy()
        for _ in range(4):
            cache.origin.release()
        asked = [one.headers["authorization"] for one in cache.origin.requests]
        self.assertEqual(asked, ["Basic YTox", "Basic YTox", "Basic Yjox", "Basic YTox"])

    def test_ten_seconds(self) -> None:
        """Who has waited for ten seconds is told to come again; the fetch under way goes on."""
        cache, clients = self.busy()
        cache.later(10)
        for client in clients[1:]:
            self.assertIsInstance(client.outcome, Overloaded)
            self.assertIn("Retry-After", client.outcome.headers)
        cache.origin.release()
        self.assertEqual(clients[0].outcome, "whole")


class ParticularRegistry(BadRegistry):
    """A registry that has manifests for those only who take their type, as docker-registry does."""

    def answer(self, asked: Asked) -> Reply:
        """The manifest, or 404."""
        reply = super().answer(asked)
        if "/manifests/" in asked.path and MANIFEST not in asked.headers.get("accept", ""):
            return refusal(reply, status=404)
        return reply


class HeadersTests(InMemoryCacheTestCase):
    """Headers of one client, and what others get."""

    def test_manifests(self) -> None:
        """A client whose Accept the registry does not like decides for nobody else, warm or cold."""
        content = b'{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json"}'
        for hot_blobs in (True, False):
            cache = self.make_cache()
            origin = cache.wire.hosts["one.example"] = ParticularRegistry()
            digest = origin.put_manifest(REPOSITORY, content, MANIFEST)
            if hot_blobs:
                pulled = Client(
                    cache.blob_service.get(self.asking(cache, digest, MANIFEST)), (0, None), takes=True
                )
                self.assertWhole(pulled, content)
                cache.later(60)
            origin.misbehave("stall", at=-1, times=1)
            odd = Client(
                cache.blob_service.get(self.asking(cache, digest, "text/plain")), (0, None), takes=True
            )
            good = Client(cache.blob_service.get(self.asking(cache, digest, MANIFEST)), (0, None), takes=True)
            origin.release()
            self.assertRefused(odd, 404)
            self.assertWhole(good, content)

    def asking(self, cache: InMemoryCache, digest: Digest, accept: str) -> ContentRequest:
        """A question with an ``Accept``."""
        return cache.asking(digest, kind="manifests", accept=(accept,))
