"""Answers of the origin are ordered by when it was asked: a late *allowed* revives nothing."""

from __future__ import annotations

from collections.abc import Callable

from contentcache.core.errors import OriginRefused
from contentcache.delivery.authorization import Revocation
from tests.delivery.house import LARGE, MANIFEST, REPOSITORY, Client, House
from tests.delivery.test_authorization import SMALL, WarmTestCase

OLD, NEW = b'{"old": 1}', b'{"new": 2}'


class LateAllowedTests(WarmTestCase):
    """A question is asked, a later one is denied, and then the *allowed* answer to the first one arrives."""

    def deny(self, house: House, status: int) -> None:
        """The origin does not let Ann in any more, and the cache hears it."""
        house.origin.misbehave("status", status=status, path="*")
        unknown = house.origin.put_blob(REPOSITORY, b"another layer")
        self.assertRefused(house.pull(unknown, self.ann), status)

    def assert_not_revived(self, house: House, begin: Callable[[], Client], content: bytes) -> None:
        """Ann's first question outlives the denial, and opens nothing to her afterwards."""
        for status in (401, 403):
            house.later(60)
            house.origin.behave()
            house.origin.misbehave("stall", at=-1, times=1)
            first = begin()
            self.assertIsNone(first.outcome)
            self.deny(house, status)
            house.origin.release()
            self.assertWhole(first, content)
            self.assertRefused(house.pull(self.digest, self.ann), status)

    def test_question(self) -> None:
        """The question for a stored blob."""
        house = self.hot_blobs()
        self.assert_not_revived(house, lambda: house.pull(self.digest, self.ann), SMALL)

    def test_download(self) -> None:
        """The first request of a download, which is a question too."""
        house = self.hot_blobs()
        blob_service = iter([LARGE, LARGE[1:]])

        def begin() -> Client:
            self.content = next(blob_service)
            return house.pull(house.origin.put_blob(REPOSITORY, self.content), self.ann)

        for status in (401, 403):
            house.later(60)
            house.origin.behave()
            house.origin.misbehave("stall", at=-1, times=1)
            first = begin()
            self.deny(house, status)
            house.origin.release()
            self.assertWhole(first, self.content)
            self.assertRefused(house.pull(self.digest, self.ann), status)

    def test_tag(self) -> None:
        """The question for a tag."""
        house = self.hot_blobs()
        house.origin.put_manifest(REPOSITORY, OLD, MANIFEST, "latest")
        self.assertWhole(house.pull_tag("latest", self.ann), OLD)
        self.assert_not_revived(house, lambda: house.pull_tag("latest", self.ann), OLD)

    def test_question_is_not_joined(self) -> None:
        """Who comes after the denial does not share a question that was asked before it."""
        house = self.hot_blobs()
        house.later(60)
        house.origin.misbehave("stall", at=-1, times=1)
        first = house.pull(self.digest, self.ann)
        self.deny(house, 403)
        self.assertRefused(house.pull(self.digest, self.ann), 403)
        house.origin.release()
        self.assertWhole(first, SMALL)

    def test_download_is_not_joined(self) -> None:
        """Nor does it wait for the first answer to a download that began before it."""
        house = self.hot_blobs()
        cold = house.origin.put_blob(REPOSITORY, LARGE)
        house.origin.misbehave("stall", at=-1, times=1)
        first = house.pull(cold, self.ann)
        self.deny(house, 403)
        second = house.pull(cold, self.ann)
        house.origin.release()
        self.assertWhole(first, LARGE)
        self.assertRefused(second, 403)

    def test_early_denied(self) -> None:
        """The *denied* answer to an earlier question does not end the grant of a later one."""
        house = self.hot_blobs()
        house.later(60)
        house.origin.misbehave("status", status=403, times=1)
        house.origin.misbehave("stall", at=-1, times=1)
        unknown = house.origin.put_blob(REPOSITORY, b"another layer")
        first = house.pull(unknown, self.ann)
        self.assertWhole(house.pull(self.digest, self.ann), SMALL)
        house.origin.release()
        self.assertRefused(first, 403)
        house.origin.requests.clear()
        self.assertWhole(house.pull(self.digest, self.ann), SMALL)
        self.assertAsked(house)

    def test_link(self) -> None:
        """A link that a later question has ended is not revived either."""
        house = self.hot_blobs()
        cat = house.origin.let("cat", "3", REPOSITORY)
        other = house.origin.put_blob(REPOSITORY, b"another layer")
        self.assertWhole(house.pull(other, cat), b"another layer")
        house.later(60)
        self.assertWhole(house.pull(other, cat), b"another layer")  # so that a 404 to Cat is no riddle
        house.origin.misbehave("stall", at=-1, times=1)
        first = house.pull(self.digest, self.ann)
        house.origin.misbehave("status", status=404, times=1)
        asking = house.asking(self.digest, cat)
        self.error(house.authorization.ask_origin(asking, with_body=True), OriginRefused)
        house.origin.release()
        self.assertWhole(first, SMALL)
        house.origin.requests.clear()
        self.assertWhole(house.pull(self.digest, self.ann), SMALL)
        self.assertAsked(house, "HEAD")

    def test_other_worker(self) -> None:
        """What another worker has heard ends the grant here, and outdates what was asked before."""
        house = self.hot_blobs()
        told: list[Revocation] = []
        other = self.hot_blobs(publish=told.append)
        other.origin.misbehave("status", status=403, times=1)
        self.assertRefused(other.pull(other.origin.put_blob(REPOSITORY, b"x"), self.ann), 403)
        self.assertEqual(len(told), 1)
        house.later(60)
        house.origin.misbehave("stall", at=-1, times=1)
        first = house.pull(self.digest, self.ann)
        later = Revocation(told[0].key, house.authorization.request_time())
        house.authorization.apply_revocation(later)
        house.origin.release()
        self.assertWhole(first, SMALL)
        house.origin.requests.clear()
        self.assertWhole(house.pull(self.digest, self.ann), SMALL)
        self.assertAsked(house, "HEAD")


class TagOrderTests(WarmTestCase):
    """What is remembered of a tag is the answer to the latest question."""

    def test_late_meaning(self) -> None:
        """A late answer does not make a moved tag mean again what it meant before."""
        house = self.house(staleiferror=600.0)
        house.origin.put_manifest(REPOSITORY, OLD, MANIFEST, "latest")
        house.pull_tag("latest")
        house.origin.misbehave("stall", at=-1, times=1)
        first = house.pull_tag("latest")
        house.origin.put_manifest(REPOSITORY, NEW, MANIFEST, "latest")
        self.assertWhole(house.pull_tag("latest"), NEW)
        house.origin.release()
        self.assertWhole(first, OLD)
        house.wire.down.add("one.example")
        self.assertWhole(house.pull_tag("latest"), NEW)

    def test_late_after_gone(self) -> None:
        """Nor does it bring back a tag that is gone."""
        house = self.house(staleiferror=600.0)
        house.origin.put_manifest(REPOSITORY, OLD, MANIFEST, "latest")
        house.pull_tag("latest")
        house.origin.misbehave("stall", at=-1, times=1)
        first = house.pull_tag("latest")
        house.origin.misbehave("status", status=404, times=2)
        self.assertRefused(house.pull_tag("latest"), 404)
        house.origin.release()
        self.assertWhole(first, OLD)
        house.wire.down.add("one.example")
        self.assertRefused(house.pull_tag("latest"), 503)
