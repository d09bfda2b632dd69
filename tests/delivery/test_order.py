"""Answers of the origin are ordered by when it was asked: a late *allowed* revives nothing."""

from __future__ import annotations

from collections.abc import Callable

from contentcache.core.errors import OriginRefused
from contentcache.delivery.authorization import Revocation
from tests.delivery.in_memory import LARGE, MANIFEST, REPOSITORY, Client, InMemoryCache
from tests.delivery.test_authorization import SMALL, WarmTestCase

OLD, NEW = b'{"old": 1}', b'{"new": 2}'


class LateAllowedTests(WarmTestCase):
    """A question is asked, a later one is denied, and then the *allowed* answer to the first one arrives."""

    def deny(self, cache: InMemoryCache, status: int) -> None:
        """The origin does not let Ann in any more, and the cache hears it."""
        cache.origin.misbehave("status", status=status, path="*")
        unknown = cache.origin.put_blob(REPOSITORY, b"another layer")
        self.assertRefused(cache.pull(unknown, self.ann), status)

    def assert_not_revived(self, cache: InMemoryCache, begin: Callable[[], Client], content: bytes) -> None:
        """Ann's first question outlives the denial, and opens nothing to her afterwards."""
        for status in (401, 403):
            cache.later(60)
            cache.origin.behave()
            cache.origin.misbehave("stall", at=-1, times=1)
            first = begin()
            self.assertIsNone(first.outcome)
            self.deny(cache, status)
            cache.origin.release()
            self.assertWhole(first, content)
            self.assertRefused(cache.pull(self.digest, self.ann), status)

    def test_question(self) -> None:
        """The question for a stored blob."""
        cache = self.hot_blobs()
        self.assert_not_revived(cache, lambda: cache.pull(self.digest, self.ann), SMALL)

    def test_download(self) -> None:
        """The first request of a download, which is a question too."""
        cache = self.hot_blobs()
        blob_service = iter([LARGE, LARGE[1:]])

        def begin() -> Client:
            self.content = next(blob_service)
            return cache.pull(cache.origin.put_blob(REPOSITORY, self.content), self.ann)

        for status in (401, 403):
            cache.later(60)
            cache.origin.behave()
            cache.origin.misbehave("stall", at=-1, times=1)
            first = begin()
            self.deny(cache, status)
            cache.origin.release()
            self.assertWhole(first, self.content)
            self.assertRefused(cache.pull(self.digest, self.ann), status)

    def test_tag(self) -> None:
        """The question for a tag."""
        cache = self.hot_blobs()
        cache.origin.put_manifest(REPOSITORY, OLD, MANIFEST, "latest")
        self.assertWhole(cache.pull_tag("latest", self.ann), OLD)
        self.assert_not_revived(cache, lambda: cache.pull_tag("latest", self.ann), OLD)

    def test_question_is_not_joined(self) -> None:
        """Who comes after the denial does not share a question that was asked before it."""
        cache = self.hot_blobs()
        cache.later(60)
        cache.origin.misbehave("stall", at=-1, times=1)
        first = cache.pull(self.digest, self.ann)
        self.deny(cache, 403)
        self.assertRefused(cache.pull(self.digest, self.ann), 403)
        cache.origin.release()
        self.assertWhole(first, SMALL)

    def test_download_is_not_joined(self) -> None:
        """Nor does it wait for the first answer to a download that began before it."""
        cache = self.hot_blobs()
        cold = cache.origin.put_blob(REPOSITORY, LARGE)
        cache.origin.misbehave("stall", at=-1, times=1)
        first = cache.pull(cold, self.ann)
        self.deny(cache, 403)
        second = cache.pull(cold, self.ann)
        cache.origin.release()
        self.assertWhole(first, LARGE)
        self.assertRefused(second, 403)

    def test_early_denied(self) -> None:
        """The *denied* answer to an earlier question does not end the grant of a later one."""
        cache = self.hot_blobs()
        cache.later(60)
        cache.origin.misbehave("status", status=403, times=1)
        cache.origin.misbehave("stall", at=-1, times=1)
        unknown = cache.origin.put_blob(REPOSITORY, b"another layer")
        first = cache.pull(unknown, self.ann)
        self.assertWhole(cache.pull(self.digest, self.ann), SMALL)
        cache.origin.release()
        self.assertRefused(first, 403)
        cache.origin.requests.clear()
        self.assertWhole(cache.pull(self.digest, self.ann), SMALL)
        self.assertAsked(cache)

    def test_link(self) -> None:
        """A link that a later question has ended is not revived either."""
        cache = self.hot_blobs()
        cat = cache.origin.let("cat", "3", REPOSITORY)
        other = cache.origin.put_blob(REPOSITORY, b"another layer")
        self.assertWhole(cache.pull(other, cat), b"another layer")
        cache.later(60)
        self.assertWhole(cache.pull(other, cat), b"another layer")  # so that a 404 to Cat is no riddle
        cache.origin.misbehave("stall", at=-1, times=1)
        first = cache.pull(self.digest, self.ann)
        cache.origin.misbehave("status", status=404, times=1)
        asking = cache.asking(self.digest, cat)
        self.error(cache.authorization.ask_origin(asking, with_body=True), OriginRefused)
        cache.origin.release()
        self.assertWhole(first, SMALL)
        cache.origin.requests.clear()
        self.assertWhole(cache.pull(self.digest, self.ann), SMALL)
        self.assertAsked(cache, "HEAD")

    def test_other_worker(self) -> None:
        """What another worker has heard ends the grant here, and outdates what was asked before."""
        cache = self.hot_blobs()
        told: list[Revocation] = []
        other = self.hot_blobs(publish=told.append)
        other.origin.misbehave("status", status=403, times=1)
        self.assertRefused(other.pull(other.origin.put_blob(REPOSITORY, b"x"), self.ann), 403)
        self.assertEqual(len(told), 1)
        cache.later(60)
        cache.origin.misbehave("stall", at=-1, times=1)
        first = cache.pull(self.digest, self.ann)
        later = Revocation(told[0].key, cache.authorization.request_time())
        cache.authorization.apply_revocation(later)
        cache.origin.release()
        self.assertWhole(first, SMALL)
        cache.origin.requests.clear()
        self.assertWhole(cache.pull(self.digest, self.ann), SMALL)
        self.assertAsked(cache, "HEAD")


class TagOrderTests(WarmTestCase):
    """What is remembered of a tag is the answer to the latest question."""

    def test_late_meaning(self) -> None:
        """A late answer does not make a moved tag mean again what it meant before."""
        cache = self.make_cache(staleiferror=600.0)
        cache.origin.put_manifest(REPOSITORY, OLD, MANIFEST, "latest")
        cache.pull_tag("latest")
        cache.origin.misbehave("stall", at=-1, times=1)
        first = cache.pull_tag("latest")
        cache.origin.put_manifest(REPOSITORY, NEW, MANIFEST, "latest")
        self.assertWhole(cache.pull_tag("latest"), NEW)
        cache.origin.release()
        self.assertWhole(first, OLD)
        cache.wire.down.add("one.example")
        self.assertWhole(cache.pull_tag("latest"), NEW)

    def test_late_after_gone(self) -> None:
        """Nor does it bring back a tag that is gone."""
        cache = self.make_cache(staleiferror=600.0)
        cache.origin.put_manifest(REPOSITORY, OLD, MANIFEST, "latest")
        cache.pull_tag("latest")
        cache.origin.misbehave("stall", at=-1, times=1)
        first = cache.pull_tag("latest")
        cache.origin.misbehave("status", status=404, times=2)
        self.assertRefused(cache.pull_tag("latest"), 404)
        cache.origin.release()
        self.assertWhole(first, OLD)
        cache.wire.down.add("one.example")
        self.assertRefused(cache.pull_tag("latest"), 503)
