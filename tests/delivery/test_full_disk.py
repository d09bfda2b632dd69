"""An index that cannot be written, and a store that takes no more: no request fails because of it."""

from __future__ import annotations

import errno
from typing import Any

from contentcache.config.model import Upstream
from contentcache.core.digest import Digest
from contentcache.storage.index_memory import MemoryIndex
from contentcache.storage.interfaces import Link
from contentcache.storage.memory import MemoryStore
from tests.delivery.in_memory import LARGE, MANIFEST, REPOSITORY, InMemoryCache, InMemoryCacheTestCase
from tests.storage.faults import FaultyStore

CONTENT = b'{"schemaVersion": 2}'
_WRITES = ("record", "touch", "forget", "affirm", "revoke", "remember_tag", "purge", "shift")


class FullIndex(MemoryIndex):
    """An index on a disk that is full while ``is_full``."""

    is_full = False

    def __getattribute__(self, name: str) -> Any:
        if name in _WRITES and MemoryIndex.__getattribute__(self, "is_full"):

            def refuse(*_given: object) -> None:
                raise OSError(errno.ENOSPC, "database or disk is full")

            return refuse
        return MemoryIndex.__getattribute__(self, name)


class FullIndexTests(InMemoryCacheTestCase):
    """Every write to the index fails."""

    def begin(self, **options: Any) -> InMemoryCache:
        """A cache over such an index."""
        cache = self.make_cache(**options)
        self.index = FullIndex()
        cache.index = self.index
        cache.furnish(**cache._options)
        self.digest = cache.origin.put_blob(REPOSITORY, LARGE)
        self.manifest = cache.origin.put_manifest(REPOSITORY, CONTENT, MANIFEST, "1")
        return cache

    def test_everything_is_served(self) -> None:
        """Blobs, manifests and tags, cold and warm, and what was stored before."""
        cache = self.begin()
        self.assertWhole(cache.pull(self.digest), LARGE)
        self.index.is_full = True
        cold = cache.origin.put_blob(REPOSITORY, LARGE[::-1])
        for _ in range(2):
            self.assertWhole(cache.pull(self.digest), LARGE)
            self.assertWhole(cache.pull(cold), LARGE[::-1])
            self.assertWhole(cache.pull(self.manifest, kind="manifests"), CONTENT)
            self.assertWhole(cache.pull_tag("1"), CONTENT)
            cache.later(90)  # longer than a grant: everything is asked and noted anew
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_last_pulls_are_noted_later(self) -> None:
        """Last pulls that could not be written are written once the disk takes them, and fail nothing."""
        cache = self.begin()
        self.assertWhole(cache.pull(self.digest), LARGE)
        self.result(cache.blob_service.flush())
        cache.later(100)
        self.assertWhole(cache.pull(self.digest), LARGE)
        pulled = cache.wall()
        self.index.is_full = True
        for _ in range(3):
            self.result(cache.blob_service.flush())
        # What is not read can be evicted, or nothing would ever make room on this disk.
        self.assertFalse(cache.blob_service.in_use(self.digest))
        cache.later(10)
        self.index.is_full = False
        self.result(cache.blob_service.flush())
        record = cache.index.blob(self.digest)
        assert record is not None
        self.assertEqual(record.pulled, pulled)

    def test_no_room_and_a_full_index(self) -> None:
        """Where room is to be made and the last pulls cannot be written first, blobs pass through."""
        cache = self.begin()
        self.assertWhole(cache.pull(self.digest), LARGE)
        self.index.is_full = True
        cache.room = False
        cold = cache.origin.put_blob(REPOSITORY, LARGE[::-1])
        self.assertWhole(cache.pull(cold), LARGE[::-1])
        self.assertWhole(cache.pull(self.manifest, kind="manifests"), CONTENT)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_a_denial_that_cannot_be_written_counts(self) -> None:
        """A link that the origin has denied stays denied, and is deleted once the index can be written."""
        cache = self.begin(auth="basic")
        ann = cache.origin.let("ann", "1", REPOSITORY)
        self.assertWhole(cache.pull(self.digest, ann), LARGE)
        link = Link("https://one.example", REPOSITORY, "blobs", self.digest)
        self.assertIsNotNone(cache.index.affirmation(link))
        links = cache.authorization._links
        self.index.is_full = True
        self.result(links.revoke(link, asked=cache.clock.seconds()))
        self.assertIsNone(self.result(links.affirmation(link)))
        self.index.is_full = False
        other = cache.origin.put_blob(REPOSITORY, b"other")
        self.assertWhole(cache.pull(other, ann), b"other")
        self.assertIsNone(cache.index.affirmation(link))
        self.assertIsNone(self.result(links.affirmation(link)))


class FullStoreTests(InMemoryCacheTestCase):
    """Every write to the store fails, one kind after the other."""

    def test_everything_is_served(self) -> None:
        """Blobs and manifests, whichever operation is refused, without end or traceback."""
        for operation in ("resume", "write", "truncate", "commit", "discard", "park"):
            store = FaultyStore(MemoryStore())
            cache = self.make_cache(store=store)
            store.break_down(errno.ENOSPC, operation)
            blob = cache.origin.put_blob(REPOSITORY, LARGE)
            manifest = cache.origin.put_manifest(REPOSITORY, CONTENT, MANIFEST, "1")
            for _ in range(2):
                self.assertWhole(cache.pull(blob), LARGE)
                self.assertWhole(cache.pull(manifest, kind="manifests"), CONTENT)
                self.assertWhole(cache.pull_tag("1"), CONTENT)
            store.mend()
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_full_in_the_middle_of_a_manifest(self) -> None:
        """A manifest whose partial file takes no more is passed through: nobody waits for it for ever."""
        store = FaultyStore(MemoryStore())
        cache = self.make_cache(store=store)
        store.break_down(errno.ENOSPC, "write")
        manifest = cache.origin.put_manifest(REPOSITORY, CONTENT, MANIFEST)
        self.assertWhole(cache.pull(manifest, kind="manifests"), CONTENT)
        self.assertEqual(Digest.of(CONTENT), manifest)


class ReservationTests(InMemoryCacheTestCase):
    """What downloads reserve."""

    def test_size_of_the_whole(self) -> None:
        """A download has its whole size reserved from its head on, and nothing when it is over."""
        cache = self.make_cache()
        digest = cache.origin.put_blob(REPOSITORY, LARGE)
        cache.origin.misbehave("stall", at=1000, times=1)
        client = cache.pull(digest)
        self.assertEqual([*cache.reserved.values()], [len(LARGE)])
        cache.origin.release()
        self.assertWhole(client, LARGE)
        self.assertEqual(cache.reserved, {})

    def test_unknown_size(self) -> None:
        """Where nobody knows the size, more is reserved as bytes come; if refused, the rest passes."""
        content = LARGE * 20
        cache = self.make_cache()
        digest = cache.origin.put_blob(REPOSITORY, content)
        cache.origin.misbehave("chunked")
        cache.origin.misbehave("stall", at=2_000_000, times=1)
        client = cache.pull(digest)
        ((_key, before),) = cache.reserved.items()
        self.assertTrue(2_000_000 < before < 4_000_000, before)
        cache.origin.release()
        self.assertWhole(client, content)
        other = cache.origin.put_blob(REPOSITORY, content[::-1])
        cache.origin.misbehave("stall", at=900_000, times=1)
        client = cache.pull(other)
        cache.room = False
        cache.origin.release()
        cache.later(1)
        self.assertWhole(client, content[::-1])
        self.assertIsNone(cache.index.blob(other))

    def test_a_part(self) -> None:
        """A part of a blob that finds no room passes through."""
        cache = self.make_cache()
        digest = cache.origin.put_blob(REPOSITORY, LARGE)
        cache.room = False
        client = cache.pull(digest, part=(1000, 2000), whole=False, small_part=True)
        self.assertWhole(client, LARGE[1000:2000])
        self.assertEqual([*cache.store.partials()], [])

    def test_given_up_however_it_ends(self) -> None:
        """Nothing stays reserved after a refusal, a digest mismatch or a client that disconnects."""
        cache = self.make_cache()
        digest = cache.origin.put_blob(REPOSITORY, LARGE)
        cache.pull(Digest.of(b"nowhere"))
        cache.origin.misbehave("wrong", at=10, times=1)
        cache.pull(digest)
        cache.later(10)
        cache.origin.misbehave("stall", at=100, times=1)
        cache.pull(digest).leave()
        cache.later(60)
        self.assertEqual(cache.reserved, {})


class SlowReaderTests(InMemoryCacheTestCase):
    """Files that are read after their downloads are over."""

    def test_blob_is_in_use_until_its_last_reader_closes_it(self) -> None:
        """A blob that was read while it was downloaded is not evicted before its clients have all of it."""
        cache = self.make_cache()
        digest = cache.origin.put_blob(REPOSITORY, LARGE)
        client = cache.pull(digest, takes=False)
        cache.later(60)
        self.assertIsNotNone(cache.index.blob(digest))
        self.result(cache.blob_service.flush())
        self.assertTrue(cache.blob_service.in_use(digest))
        client.take()
        self.assertWhole(client, LARGE)
        self.result(cache.blob_service.flush())
        self.assertFalse(cache.blob_service.in_use(digest))

    def test_partial_file_counts_until_its_last_reader_closes_it(self) -> None:
        """
        A download that finds no more room leaves its bytes reserved, and in use, while clients need them;
        once they are passed the rest, they keep the file no longer.
        """
        content = LARGE * 20
        cache = self.make_cache()
        digest = cache.origin.put_blob(REPOSITORY, content)
        cache.origin.misbehave("chunked")
        cache.origin.misbehave("stall", at=2_000_000, times=1)
        client = cache.pull(digest, takes=False)
        cache.room = False
        cache.origin.release()
        cache.later(1)
        self.result(cache.blob_service.flush())
        (partial,) = cache.store.partials()
        self.assertLess(partial.size, len(content))
        self.assertEqual([*cache.reserved.values()], [partial.size])
        self.assertEqual(cache.running_downloads, 0)
        self.assertTrue(cache.blob_service.in_use(digest))
        cache.origin.misbehave("stall", at=3_000_000, times=1)
        client.take()
        self.assertIsNone(client.outcome)
        self.assertEqual(cache.reserved, {})
        cache.origin.release()
        self.assertWhole(client, content)

    def test_superseded_file_counts_until_its_last_reader_closes_it(self) -> None:
        """
        The partial file of a blob that another origin's download has stored is unlinked; what it has stays
        reserved while its client is still to go on.
        """
        slow, quick = (
            Upstream(f"https://{name}.example", (f"https://{name}.example",)) for name in ("slow", "quick")
        )
        cache = self.make_cache(slow, quick)
        for name in ("slow", "quick"):
            digest = cache.origins[f"{name}.example"].put_blob(REPOSITORY, LARGE)
        half = len(LARGE) // 2
        cache.origins["slow.example"].misbehave("stall", method="GET", at=half, times=1)
        client = cache.pull(digest, origin=0, takes=False)
        self.assertWhole(cache.pull(digest, origin=1), LARGE)
        cache.later(1)
        self.assertEqual([*cache.store.partials()], [])
        self.assertEqual(([*cache.reserved.values()], cache.unlinked), ([half], set(cache.reserved)))
        client.take()
        cache.later(1)
        self.assertWhole(client, LARGE)
        self.assertEqual(cache.reserved, {})
