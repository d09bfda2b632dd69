"""The store under a fetch: what was there before, what fails, what has no room."""

from __future__ import annotations

import errno
from typing import Any

from twisted.logger import capturedLogs

from contentcache.core.digest import Digest
from contentcache.delivery.shared_download import HELD_BACK
from contentcache.storage.interfaces import BlobRecord, Store
from contentcache.storage.memory import MemoryStore
from tests.delivery.in_memory import LARGE, ORIGIN, REPOSITORY, InMemoryCache, InMemoryCacheTestCase
from tests.storage.faults import FaultyStore

HALF = len(LARGE) // 2


def put(store: Store, digest: Digest, content: bytes) -> None:
    """Put a file into the store behind the cache's back."""
    file = store.resume(digest, ORIGIN)
    file.truncate(0)
    file.write(0, content)
    file.commit()
    file.close()


class FoundTests(InMemoryCacheTestCase):
    """What lies in the store already."""

    def found(self, content: bytes, *, known: bool | None = None) -> InMemoryCache:
        """A store with a file, and an index that knows it as verified, as unverified, or not at all."""
        cache = self.make_cache()
        self.digest = cache.origin.put_blob(REPOSITORY, LARGE)
        put(cache.store, self.digest, content)
        if known is not None:
            cache.index.record([BlobRecord(self.digest, len(LARGE), cache.wall(), verified=known)])
        return cache

    def test_unverified(self) -> None:
        """A file that nobody has verified is hashed before its first use; and the origin proves it."""
        for known in (None, False):
            cache = self.found(LARGE, known=known)
            self.assertWhole(cache.pull(self.digest), LARGE)
            self.assertEqual([asked.method for asked in cache.origin.requests], ["HEAD", "GET"])
            record = cache.index.blob(self.digest)
            assert record is not None
            self.assertTrue(record.verified)

    def test_unverified_and_wrong(self) -> None:
        """One that turns out wrong is thrown away and fetched; nobody completes the wrong bytes."""
        wrong = b"\xff" + LARGE[1:]
        cache = self.found(wrong)
        client = cache.pull(self.digest)
        self.assertNotEqual(bytes(client.got), wrong)
        self.assertWhole(cache.pull(self.digest), LARGE)
        self.assertEqual(cache.origin.count("GET"), 1)

    def test_unverified_is_nobodys_without_a_yes(self) -> None:
        """An existing registry's files are given to nobody whom the origin refuses."""
        cache = self.found(LARGE)
        cache.origin.misbehave("status", status=404)
        self.assertRefused(cache.pull(self.digest), 404)

    def test_wrong_size(self) -> None:
        """A verified file whose size has changed is noticed at once, and fetched again."""
        for content in (LARGE[:-1], LARGE + b"x", b""):
            cache = self.found(content, known=True)
            self.assertWhole(cache.pull(self.digest), LARGE)
            self.assertEqual(cache.origin.count("GET"), 1)

    def test_file_gone(self) -> None:
        """A file that somebody has deleted is fetched again."""
        cache = self.found(LARGE, known=True)
        cache.store.delete(self.digest)
        self.assertWhole(cache.pull(self.digest), LARGE)

    def test_partial_of_an_earlier_run(self) -> None:
        """A partial file is resumed; where its bytes were wrong it is fetched anew, and nobody is blamed."""
        for kept in (LARGE[:1000], b"x" * 1000, LARGE + b"too much"):
            cache = self.make_cache()
            digest = cache.origin.put_blob(REPOSITORY, LARGE)
            partial = cache.store.resume(digest, ORIGIN)
            partial.write(0, kept)
            partial.close()
            cache.pull(digest)
            self.assertWhole(cache.pull(digest), LARGE)
            self.assertTrue(all(well for _, well in cache.registries[0].health()))

    def test_short_while_read(self) -> None:
        """A stored file that is cut under its reader ends the response short."""
        cache = self.found(LARGE, known=True)
        client = cache.pull(self.digest, takes=False)
        assert isinstance(cache.store, MemoryStore)
        del cache.store._files.blobs[self.digest].bytes[HALF:]
        client.take()
        self.assertEqual((client.outcome, len(client.got)), ("short", HALF))


class FailingTests(InMemoryCacheTestCase):
    """A disk that fails serves all the same."""

    def failing(self, **options: Any) -> tuple[InMemoryCache, FaultyStore]:
        """A cache over a disk that can fail."""
        store = FaultyStore(MemoryStore())
        cache = self.make_cache(store=store, **options)
        self.digest = cache.origin.put_blob(REPOSITORY, LARGE)
        return cache, store

    def test_full_from_the_start(self) -> None:
        """What cannot be opened or written at all is passed through, and nothing is kept."""
        for operation in ("resume", "write"):
            for number in (errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT):
                cache, store = self.failing()
                store.break_down(number, operation)
                for _ in range(2):
                    self.assertWhole(cache.pull(self.digest), LARGE)
                self.assertIsNone(cache.index.blob(self.digest))

    def test_full_in_the_middle(self) -> None:
        """Clients who have got bytes already get the rest as if nothing were the matter."""
        for at in (0, 1, HALF, len(LARGE) - HELD_BACK, len(LARGE) - 1):
            cache, store = self.failing()
            store.break_down(errno.ENOSPC, "write", at=at)
            cache.origin.misbehave("slow", seconds=1.0, times=1)
            clients = [cache.pull(self.digest) for _ in range(3)]
            cache.later(2)
            for client in clients:
                self.assertWhole(client, LARGE)

    def test_what_is_passed_through_is_verified(self) -> None:
        """Nobody completes a wrong blob, the store being full or not."""
        cache, store = self.failing()
        store.break_down(errno.ENOSPC, "write")
        cache.origin.misbehave("wrong", at=5)
        client = cache.pull(self.digest)
        self.assertEqual(client.outcome, "short")
        self.assertLess(len(client.got), len(LARGE))

    def test_parts_pass_too(self) -> None:
        """A range of what cannot be kept is asked for as a range."""
        cache, store = self.failing()
        store.break_down(errno.ENOSPC, "resume")
        self.assertWhole(cache.pull(self.digest, part=(10, 20)), LARGE[10:20])
        self.assertEqual(cache.origin.asked("GET")[-1].headers["range"], "bytes=10-19")

    def test_nobody_passes_without_a_yes(self) -> None:
        """Passing through is a question in the client's own name."""
        cache, store = self.failing(auth="basic")
        store.break_down(errno.ENOSPC, "resume")
        cache.origin.let("ann", "1", REPOSITORY)
        self.assertRefused(cache.pull(self.digest), 401)

    def test_no_room(self) -> None:
        """Where no room can be made blobs are passed through."""
        cache, _ = self.failing()
        cache.room = False
        with capturedLogs() as events:
            self.assertWhole(cache.pull(self.digest), LARGE)
        self.assertEqual([*cache.store.blobs(), *cache.store.partials()], [])
        (event,) = (each for each in events if each["log_format"].startswith("no room for blob"))
        self.assertEqual((event["digest"], event["repository"]), (self.digest, REPOSITORY))

    def test_larger_than_maxsize(self) -> None:
        """What is larger than ``maxsize`` passes through, with a line that says so: no fault of the store."""
        cache = self.make_cache(maxsize=len(LARGE) - 1)
        digest = cache.origin.put_blob(REPOSITORY, LARGE)
        with capturedLogs() as events:
            self.assertWhole(cache.pull(digest), LARGE)
        (event,) = (each for each in events if each["log_format"].startswith("no room for blob"))
        self.assertEqual((event["digest"], event["bytes"]), (digest, len(LARGE)))
        self.assertIn("it is larger than maxsize (", event["reason"])
        self.assertIsNone(cache.services.blob_service.health.fault)
        self.assertEqual(cache.reserved, {})

    def test_commit_fails(self) -> None:
        """What is verified and cannot be kept is served, and is no blob, nor is it called stored."""
        cache, store = self.failing()
        store.break_down(errno.EIO, "commit")
        for is_stored in (False, True):
            client = cache.pull(self.digest)
            self.assertWhole(client, LARGE)
            assert client.served is not None
            self.assertEqual(client.served.body.is_stored, is_stored)
            store.mend()

    def test_room_again(self) -> None:
        """When the disk takes bytes again caching goes on by itself."""
        cache, store = self.failing()
        store.break_down(errno.ENOSPC, "write", at=1000)
        cache.pull(self.digest)
        store.mend()
        self.assertWhole(cache.pull(self.digest), LARGE)
        self.assertIsNotNone(cache.index.blob(self.digest))


class EvictionTests(InMemoryCacheTestCase):
    """What the evictor may not take."""

    def test_in_use(self) -> None:
        """A fetch, a reader, and a pull that the index does not know yet keep a blob."""
        cache = self.make_cache()
        digest = cache.origin.put_blob(REPOSITORY, LARGE)
        self.assertFalse(cache.blob_service.in_use(digest))
        cache.origin.misbehave("stall", at=HALF, times=1)
        cache.pull(digest)
        self.assertTrue(cache.blob_service.in_use(digest))
        cache.origin.release()
        self.result(cache.blob_service.flush())
        self.assertFalse(cache.blob_service.in_use(digest))
        reader = cache.pull(digest, takes=False)
        self.result(cache.blob_service.flush())
        self.assertTrue(cache.blob_service.in_use(digest))
        reader.take()
        self.assertTrue(cache.blob_service.in_use(digest))
        self.result(cache.blob_service.flush())
        self.assertFalse(cache.blob_service.in_use(digest))

    def test_reader_outlives_the_download(self) -> None:
        """A client that still reads what it has downloaded keeps the blob: deleted, it would free nothing."""
        cache = self.make_cache()
        digest = cache.origin.put_blob(REPOSITORY, LARGE)
        cache.origin.misbehave("slow", method="GET", seconds=1.0)
        readers = [cache.pull(digest, takes=False) for _ in range(2)]
        cache.later(2)
        self.assertIsNotNone(cache.index.blob(digest))
        for reader in readers:
            self.result(cache.blob_service.flush())
            self.assertTrue(cache.blob_service.in_use(digest))
            reader.take()
            self.assertWhole(reader, LARGE)
        self.result(cache.blob_service.flush())
        self.assertFalse(cache.blob_service.in_use(digest))

    def test_last_pull(self) -> None:
        """A pull counts when it begins and when it ends."""
        cache = self.make_cache()
        digest = cache.origin.put_blob(REPOSITORY, LARGE)
        cache.pull(digest)
        cache.later(30)
        reader = cache.pull(digest, takes=False)
        cache.later(30)
        reader.take()
        self.result(cache.blob_service.flush())
        record = cache.index.blob(digest)
        assert record is not None
        self.assertEqual(record.pulled, cache.wall())

    def test_deleted_under_a_reader(self) -> None:
        """A reader finishes what it has begun though the blob's name is gone."""
        cache = self.make_cache()
        digest = cache.origin.put_blob(REPOSITORY, LARGE)
        cache.pull(digest)
        reader = cache.pull(digest, takes=False)
        cache.store.delete(digest)
        reader.take()
        self.assertWhole(reader, LARGE)
