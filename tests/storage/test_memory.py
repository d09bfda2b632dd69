"""The store and the index in memory."""

from __future__ import annotations

import errno

from contentcache.storage.index_memory import MemoryIndex
from contentcache.storage.interfaces import Index, IndexLimits, Store
from contentcache.storage.memory import MemoryStore
from tests.storage import suites
from tests.storage.suites import CONTENT, DIGEST, ORIGIN, put


class MemoryStoreTests(suites.StoreSuite):
    """What a memory of bounded size adds."""

    def make_store(self) -> Store:
        return MemoryStore()

    def test_unbounded(self) -> None:
        """Without a capacity there is no bound on what is free."""
        self.assertIsNone(self.store.free())

    def test_full(self) -> None:
        """Beyond the capacity a write fails as on a full disk, and nothing of it is kept."""
        store = MemoryStore(capacity=10)
        partial = store.resume(DIGEST, ORIGIN)
        partial.write(0, b"12345678")
        error = self.assertRaises(OSError, partial.write, 8, b"9ab")
        self.assertEqual(error.errno, errno.ENOSPC)
        self.assertEqual((store.free(), partial.read(0, 100)), (2, b"12345678"))
        partial.write(8, b"9a")
        partial.write(0, b"again")
        self.assertEqual(store.free(), 0)

    def test_room_comes_back(self) -> None:
        """What is deleted gives its room back once its last reader has closed it."""
        store = MemoryStore(capacity=len(CONTENT))
        put(store, CONTENT)
        reader = store.open(DIGEST)
        store.delete(DIGEST)
        self.assertEqual(store.free(), 0)
        reader.close()
        self.assertEqual(store.free(), len(CONTENT))

    def test_dates(self) -> None:
        """Files carry the time of their last write."""
        times = iter([1.0, 2.0])
        store = MemoryStore(now=lambda: next(times))
        store.resume(DIGEST, ORIGIN).write(0, b"x")
        self.assertEqual([file.modified for file in store.partials()], [2.0])


class MemoryIndexTests(suites.IndexSuite):
    """The suite alone: it remembers nothing from one run to the next."""

    def make_index(self, limits: IndexLimits | None = None) -> Index:
        return MemoryIndex(limits)
