"""The store under a fetch: what was there before, what fails, what has no room."""

from __future__ import annotations

import errno
from typing import Any

from contentcache.core.digest import Digest
from contentcache.delivery.shared_download import HELD_BACK
from contentcache.storage.interfaces import BlobRecord, Store
from contentcache.storage.memory import MemoryStore
from tests.delivery.house import LARGE, ORIGIN, REPOSITORY, House, HouseTestCase
from tests.storage.faults import FaultyStore

HALF = len(LARGE) // 2


def put(store: Store, digest: Digest, content: bytes) -> None:
    """Put a file into the store behind the house's back."""
    file = store.resume(digest, ORIGIN)
    file.truncate(0)
    file.write(0, content)
    file.commit()
    file.close()


class FoundTests(HouseTestCase):
    """What lies in the store already."""

    def found(self, content: bytes, *, known: bool | None = None) -> House:
        """A store with a file, and an index that knows it as verified, as unverified, or not at all."""
        house = self.house()
        self.digest = house.origin.put_blob(REPOSITORY, LARGE)
        put(house.store, self.digest, content)
        if known is not None:
            house.index.record([BlobRecord(self.digest, len(LARGE), house.wall(), verified=known)])
        return house

    def test_unverified(self) -> None:
        """A file that nobody has verified is hashed before its first use; and the origin proves it."""
        for known in (None, False):
            house = self.found(LARGE, known=known)
            self.assertWhole(house.pull(self.digest), LARGE)
            self.assertEqual([asked.method for asked in house.origin.requests], ["HEAD", "GET"])
            record = house.index.blob(self.digest)
            assert record is not None
            self.assertTrue(record.verified)

    def test_unverified_and_wrong(self) -> None:
        """One that turns out wrong is thrown away and fetched; nobody completes the wrong bytes."""
        wrong = b"\xff" + LARGE[1:]
        house = self.found(wrong)
        client = house.pull(self.digest)
        self.assertNotEqual(bytes(client.got), wrong)
        self.assertWhole(house.pull(self.digest), LARGE)
        self.assertEqual(house.origin.count("GET"), 1)

    def test_unverified_is_nobodys_without_a_yes(self) -> None:
        """An existing registry's files are given to nobody whom the origin refuses."""
        house = self.found(LARGE)
        house.origin.misbehave("status", status=404)
        self.assertRefused(house.pull(self.digest), 404)

    def test_wrong_size(self) -> None:
        """A verified file whose size has changed is noticed at once, and fetched again."""
        for content in (LARGE[:-1], LARGE + b"x", b""):
            house = self.found(content, known=True)
            self.assertWhole(house.pull(self.digest), LARGE)
            self.assertEqual(house.origin.count("GET"), 1)

    def test_file_gone(self) -> None:
        """A file that somebody has deleted is fetched again."""
        house = self.found(LARGE, known=True)
        house.store.delete(self.digest)
        self.assertWhole(house.pull(self.digest), LARGE)

    def test_partial_of_an_earlier_run(self) -> None:
        """A partial file is resumed; where its bytes were wrong it is fetched anew, and nobody is blamed."""
        for kept in (LARGE[:1000], b"x" * 1000, LARGE + b"too much"):
            house = self.house()
            digest = house.origin.put_blob(REPOSITORY, LARGE)
            partial = house.store.resume(digest, ORIGIN)
            partial.write(0, kept)
            partial.close()
            house.pull(digest)
            self.assertWhole(house.pull(digest), LARGE)
            self.assertTrue(all(well for _, well in house.registries[0].health()))

    def test_short_while_read(self) -> None:
        """A stored file that is cut under its reader ends the response short."""
        house = self.found(LARGE, known=True)
        client = house.pull(self.digest, takes=False)
        assert isinstance(house.store, MemoryStore)
        del house.store._files.blobs[self.digest].bytes[HALF:]
        client.take()
        self.assertEqual((client.outcome, len(client.got)), ("short", HALF))


class FailingTests(HouseTestCase):
    """A disk that fails serves all the same."""

    def failing(self, **options: Any) -> tuple[House, FaultyStore]:
        """A house over a disk that can fail."""
        store = FaultyStore(MemoryStore())
        house = self.house(store=store, **options)
        self.digest = house.origin.put_blob(REPOSITORY, LARGE)
        return house, store

    def test_full_from_the_start(self) -> None:
        """What cannot be opened or written at all is passed through, and nothing is kept."""
        for operation in ("resume", "write"):
            for number in (errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT):
                house, store = self.failing()
                store.break_down(number, operation)
                for _ in range(2):
                    self.assertWhole(house.pull(self.digest), LARGE)
                self.assertIsNone(house.index.blob(self.digest))

    def test_full_in_the_middle(self) -> None:
        """Clients who have got bytes already get the rest as if nothing were the matter."""
        for at in (0, 1, HALF, len(LARGE) - HELD_BACK, len(LARGE) - 1):
            house, store = self.failing()
            store.break_down(errno.ENOSPC, "write", at=at)
            house.origin.misbehave("slow", seconds=1.0, times=1)
            clients = [house.pull(self.digest) for _ in range(3)]
            house.later(2)
            for client in clients:
                self.assertWhole(client, LARGE)

    def test_what_is_passed_through_is_verified(self) -> None:
        """Nobody completes a wrong blob, the store being full or not."""
        house, store = self.failing()
        store.break_down(errno.ENOSPC, "write")
        house.origin.misbehave("wrong", at=5)
        client = house.pull(self.digest)
        self.assertEqual(client.outcome, "short")
        self.assertLess(len(client.got), len(LARGE))

    def test_parts_pass_too(self) -> None:
        """A range of what cannot be kept is asked for as a range."""
        house, store = self.failing()
        store.break_down(errno.ENOSPC, "resume")
        self.assertWhole(house.pull(self.digest, part=(10, 20)), LARGE[10:20])
        self.assertEqual(house.origin.asked("GET")[-1].headers["range"], "bytes=10-19")

    def test_nobody_passes_without_a_yes(self) -> None:
        """Passing through is a question in the client's own name."""
        house, store = self.failing(auth="basic")
        store.break_down(errno.ENOSPC, "resume")
        house.origin.let("ann", "1", REPOSITORY)
        self.assertRefused(house.pull(self.digest), 401)

    def test_no_room(self) -> None:
        """Where no room can be made blobs are passed through."""
        house, _ = self.failing()
        house.room = False
        self.assertWhole(house.pull(self.digest), LARGE)
        self.assertEqual([*house.store.blobs(), *house.store.partials()], [])

    def test_commit_fails(self) -> None:
        """What is verified and cannot be kept is served, and is no blob."""
        house, store = self.failing()
        store.break_down(errno.EIO, "commit")
        self.assertWhole(house.pull(self.digest), LARGE)
        store.mend()
        self.assertWhole(house.pull(self.digest), LARGE)

    def test_room_again(self) -> None:
        """When the disk takes bytes again caching goes on by itself."""
        house, store = self.failing()
        store.break_down(errno.ENOSPC, "write", at=1000)
        house.pull(self.digest)
        store.mend()
        self.assertWhole(house.pull(self.digest), LARGE)
        self.assertIsNotNone(house.index.blob(self.digest))


class EvictionTests(HouseTestCase):
    """What the evictor may not take."""

    def test_in_use(self) -> None:
        """A fetch, a reader, and a pull that the index does not know yet keep a blob."""
        house = self.house()
        digest = house.origin.put_blob(REPOSITORY, LARGE)
        self.assertFalse(house.blob_service.in_use(digest))
        house.origin.misbehave("stall", at=HALF, times=1)
        house.pull(digest)
        self.assertTrue(house.blob_service.in_use(digest))
        house.origin.release()
        self.result(house.blob_service.flush())
        self.assertFalse(house.blob_service.in_use(digest))
        reader = house.pull(digest, takes=False)
        self.result(house.blob_service.flush())
        self.assertTrue(house.blob_service.in_use(digest))
        reader.take()
        self.assertTrue(house.blob_service.in_use(digest))
        self.result(house.blob_service.flush())
        self.assertFalse(house.blob_service.in_use(digest))

    def test_reader_outlives_the_download(self) -> None:
        """A client that still reads what it has downloaded keeps the blob: deleted, it would free nothing."""
        house = self.house()
        digest = house.origin.put_blob(REPOSITORY, LARGE)
        house.origin.misbehave("slow", method="GET", seconds=1.0)
        readers = [house.pull(digest, takes=False) for _ in range(2)]
        house.later(2)
        self.assertIsNotNone(house.index.blob(digest))
        for reader in readers:
            self.result(house.blob_service.flush())
            self.assertTrue(house.blob_service.in_use(digest))
            reader.take()
            self.assertWhole(reader, LARGE)
        self.result(house.blob_service.flush())
        self.assertFalse(house.blob_service.in_use(digest))

    def test_last_pull(self) -> None:
        """A pull counts when it begins and when it ends."""
        house = self.house()
        digest = house.origin.put_blob(REPOSITORY, LARGE)
        house.pull(digest)
        house.later(30)
        reader = house.pull(digest, takes=False)
        house.later(30)
        reader.take()
        self.result(house.blob_service.flush())
        record = house.index.blob(digest)
        assert record is not None
        self.assertEqual(record.pulled, house.wall())

    def test_deleted_under_a_reader(self) -> None:
        """A reader finishes what it has begun though the blob's name is gone."""
        house = self.house()
        digest = house.origin.put_blob(REPOSITORY, LARGE)
        house.pull(digest)
        reader = house.pull(digest, takes=False)
        house.store.delete(digest)
        reader.take()
        self.assertWhole(reader, LARGE)
