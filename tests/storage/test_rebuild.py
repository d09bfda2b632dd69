"""An index that knows nothing, filled from the store."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.digest import Digest
from contentcache.core.ports import Given, Result
from contentcache.storage.index_memory import MemoryIndex
from contentcache.storage.index_recovery import rebuild
from contentcache.storage.interfaces import BlobRecord
from contentcache.storage.memory import MemoryStore
from tests.storage.faults import FaultyStore
from tests.storage.suites import ORIGIN, put

NOW = 1000.0


class RebuildTests(SynchronousTestCase):
    """Threads are played by calls, which are counted."""

    def setUp(self) -> None:
        self.time = 500.0
        self.store = MemoryStore(now=lambda: self.time)
        self.index = MemoryIndex()
        self.calls = 0

    async def run_here(
        self, function: Callable[Given, Result], /, *arguments: Given.args, **named: Given.kwargs
    ) -> Result:
        self.calls += 1
        return function(*arguments, **named)

    def rebuild(self, store: Any = None) -> int:
        work = rebuild(store or self.store, self.index, self.run_here, lambda: NOW)
        return self.successResultOf(Deferred.fromCoroutine(work))

    def test_listed(self) -> None:
        """Each blob is known, as not verified and pulled when its file was written, partial files are not."""
        old = put(self.store, b"old")
        self.time = 2000.0
        future = put(self.store, b"future")
        self.store.resume(Digest.of(b"partial"), ORIGIN).write(0, b"part")
        self.assertEqual(self.rebuild(), 2)
        self.assertEqual(self.index.blob(old), BlobRecord(old, 3, 500.0, verified=False))
        self.assertEqual(self.index.blob(future), BlobRecord(future, 6, NOW, verified=False))
        self.assertEqual(self.index.total(), 9)
        self.assertFalse(self.index.rebuilt)

    def test_known_stay(self) -> None:
        """What was verified while the listing went on, or before a crash, is not doubted again."""
        digest = put(self.store, b"known")
        known = BlobRecord(digest, 5, 900.0, verified=True)
        self.index.record([known])
        self.rebuild()
        self.assertEqual(self.index.blob(digest), known)

    def test_batches(self) -> None:
        """Many files are listed in many short jobs: the pool and the reactor have other work."""
        for number in range(2500):
            put(self.store, b"%d" % number)
        self.assertEqual(self.rebuild(), 2500)
        self.assertEqual(self.calls, 3 + 1 + 1)

    def test_disk_fails(self) -> None:
        """A listing that breaks off is not a listing: it is to be done again."""
        faulty = FaultyStore(self.store)
        put(faulty, b"blob")
        faulty.break_down(errno.EIO, "blobs")
        work = rebuild(faulty, self.index, self.run_here, lambda: NOW)
        self.failureResultOf(Deferred.fromCoroutine(work), OSError)
        self.assertTrue(self.index.rebuilt)
        faulty.mend()
        self.assertEqual(self.rebuild(faulty), 1)
        self.assertFalse(self.index.rebuilt)
