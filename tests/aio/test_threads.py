"""Nothing that may block does so on the reactor: real threads, and a disk that hangs."""

from __future__ import annotations

import threading
from typing import Any

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from contentcache.aio.threads import Threads, ThreadsUnavailableError
from contentcache.core.digest import Digest
from contentcache.storage.interfaces import BlobFile, PartialFile
from contentcache.storage.memory import MemoryStore
from tests.delivery.in_memory import LARGE, REPOSITORY, Client, InMemoryCache

reactor: Any = global_reactor


class HangingStore(MemoryStore):
    """Every operation on some digests hangs until it is released, and must not be on the reactor's thread."""

    def __init__(self) -> None:
        super().__init__()
        self.hanging: set[Digest] = set()
        self.entered = threading.Event()
        self.released = threading.Event()
        self.on_reactor: list[str] = []

    def pass_by(self, operation: str, digest: Digest) -> None:
        """One operation begins."""
        if threading.current_thread() is threading.main_thread():
            self.on_reactor.append(operation)
        elif digest in self.hanging:
            self.entered.set()
            self.released.wait(10)

    def open(self, digest: Digest) -> Any:
        self.pass_by("open", digest)
        return _OffReactor(self, digest, super().open(digest))

    def resume(self, digest: Digest, origin: str) -> Any:
        self.pass_by("resume", digest)
        return _OffReactor(self, digest, super().resume(digest, origin))

    def adopt(self, digest: Digest) -> Any:
        self.pass_by("adopt", digest)
        return _OffReactor(self, digest, super().adopt(digest))


class _OffReactor:
    """A file whose bytes are never in memory, so that they are read in a thread."""

    descriptor = None

    def __init__(self, store: HangingStore, digest: Digest, file: BlobFile | PartialFile) -> None:
        self._store = store
        self._digest = digest
        self._file: Any = file
        self.size = file.size

    @property
    def held(self) -> Any:
        return self._file.held

    def read_now(self, offset: int, length: int) -> bytes | None:
        return None

    def close(self) -> None:
        self._file.close()

    def __getattr__(self, operation: str) -> Any:
        def call(*given: Any) -> Any:
            self._store.pass_by(operation, self._digest)
            return getattr(self._file, operation)(*given)

        return call


class ThreadsTests(TestCase):
    """The whole delivery room with a pool of threads."""

    timeout = 30

    def setUp(self) -> None:
        self.threads = Threads(reactor, 4, "test")
        self.threads.start()
        self.addCleanup(self.threads.stop)
        self.store = HangingStore()
        self.addCleanup(self.store.released.set)
        self.cache = InMemoryCache(store=self.store, run=self.threads)
        self.slow = self.cache.origin.put_blob(REPOSITORY, LARGE)
        self.quick = self.cache.origin.put_blob(REPOSITORY, LARGE[::-1])

    def assertServed(self, client: Client, content: bytes) -> None:
        """The client has got everything."""
        self.assertEqual((client.outcome, bytes(client.got)), ("whole", content))

    async def turn(self) -> None:
        """Let the reactor go round."""
        await deferLater(reactor, 0, lambda: None)

    async def test_hanging_disk(self) -> None:
        """While the disk hangs over one blob, cold and then warm, another one is pulled, cold and warm."""
        for _ in range(2):
            self.store.entered.clear()
            self.store.released.clear()
            self.store.hanging.add(self.slow)
            hanging = self.cache.pull(self.slow)
            while not self.store.entered.is_set():
                await self.turn()
            for _ in range(2):
                client = self.cache.pull(self.quick)
                await client.done
                self.assertServed(client, LARGE[::-1])
            self.assertIsNone(hanging.outcome)
            self.store.released.set()
            await hanging.done
            self.assertServed(hanging, LARGE)
        self.assertEqual(self.store.on_reactor, [])

    async def test_stampede(self) -> None:
        """Many clients of one cold blob, with threads: one fetch, and the right bytes for each."""
        clients = [self.cache.pull(self.slow) for _ in range(32)]
        await gatherResults([client.done for client in clients])
        for client in clients:
            self.assertServed(client, LARGE)
        self.assertEqual(self.cache.origin.count("GET"), 1)
        self.assertLessEqual(self.cache.origin.count(), 2)  # who came after the head was in asked by HEAD
        self.assertEqual(self.store.on_reactor, [])

    async def test_a_no_is_nobody_elses(self) -> None:
        """However the moments fall, one is refused and the other is served, from one fetch or two."""
        for turns in range(12):
            cache = InMemoryCache(auth="basic", store=HangingStore(), run=self.threads)
            bob = cache.origin.let("bob", "2", REPOSITORY)
            digest = cache.origin.put_blob(REPOSITORY, LARGE)
            refused = cache.pull(digest, "Basic eDp5")
            for _ in range(turns):
                await self.turn()
            served = cache.pull(digest, bob)
            await gatherResults([refused.done, served.done])
            self.assertEqual((refused.status, bytes(refused.got)), (401, b""))
            self.assertServed(served, LARGE)

    async def test_clients_that_leave(self) -> None:
        """Clients that leave at any moment leave no open file behind."""
        for turns in range(12):
            client = self.cache.pull(self.slow)
            for _ in range(turns):
                await self.turn()
            client.leave()
        while self.cache.blob_service.downloads.running:
            await self.turn()
        rest = self.cache.pull(self.slow)
        await rest.done
        self.assertServed(rest, LARGE)
        await self._until_idle()
        self.assertEqual([content.opened for content in self.store._files.blobs.values()], [0])

    async def _until_idle(self) -> None:
        idle: Deferred[None] = Deferred()
        for _ in range(8):  # more than there are threads: what was queued before has run
            await self.threads(lambda: None)
        reactor.callLater(0, idle.callback, None)
        await idle


class FewThreadsTests(TestCase):
    """A system that starts no further thread."""

    timeout = 30

    async def test_some(self) -> None:
        """Work waits for the threads that there are, and all of it is done."""
        threads = Threads(reactor, 4, "test")
        threads.start()
        self.addCleanup(threads.stop)
        self.patch(threading.Thread, "start", _refuse)
        results = await gatherResults([maybeDeferred(threads, int, n) for n in range(20)])
        self.assertEqual(results, list(range(20)))
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_none(self) -> None:
        """Where there is not even one, that is said at the start."""
        threads = Threads(reactor, 4, "test")
        self.patch(threading.Thread, "start", _refuse)
        self.assertRaises(ThreadsUnavailableError, threads.start)


def _refuse(_thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")
