"""Which blobs are being read, and when each was last pulled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

from twisted.internet.defer import DeferredLock
from twisted.logger import Logger

from contentcache.core.digest import Digest
from contentcache.core.ports import Clock, Run
from contentcache.storage.interfaces import BlobIndex

#: Number of last pulls in memory while the index cannot be written.
_MOST_UNWRITTEN: Final = 100_000


class BlobUsage:
    """
    Readers by blob, and last pulls, which are written to the index in batches. ``wall`` is in seconds since the
    epoch; ``on_use`` is called for each blob that is read or pulled.
    """

    _log = Logger()

    def __init__(
        self, index: BlobIndex, run: Run, wall: Clock, on_use: Callable[[Digest], None] = lambda _: None
    ) -> None:
        self._index = index
        self._run = run
        self._wall = wall
        self._on_use = on_use
        self._readers: Counter[Digest] = Counter()
        self._pulled: dict[Digest, float] = {}
        self._flushing: dict[Digest, float] = {}
        self._flush_lock = DeferredLock()
        self._is_failing = False

    def __contains__(self, digest: Digest) -> bool:
        """
        Whether it has readers, or a pull that is not in the index yet. While the index cannot be written, only
        readers count: on a full disk nothing could be evicted otherwise.
        """
        if digest in self._readers:
            return True
        return not self._is_failing and (digest in self._pulled or digest in self._flushing)

    def acquire(self, digest: Digest) -> None:
        """Add a reader; :meth:`release` removes it."""
        self._on_use(digest)  # first: if it raises, nothing is owed
        self._readers[digest] += 1

    def release(self, digest: Digest) -> None:
        """Remove a reader."""
        self._readers[digest] -= 1
        if self._readers[digest] <= 0:
            del self._readers[digest]
        self.record_pull(digest)

    def record_pull(self, digest: Digest) -> None:
        """Record a pull now."""
        self.record_pull_at(digest, self._wall())

    def record_pull_at(self, digest: Digest, now: float) -> None:
        """The same for a caller that knows the time."""
        self._pulled[digest] = now
        self._on_use(digest)

    async def flush(self) -> None:
        """
        Write the last pulls to the index. If the disk refuses, they are written the next time: neither a request
        nor an eviction fails because of it.
        """
        await self._flush_lock.acquire()
        self._flushing, self._pulled = self._pulled, {}
        try:
            if self._flushing:
                await self._run(self._index.touch, self._flushing)
        except OSError as error:
            if not self._is_failing:
                self._log.error("last pulls not written", reason=error)
            self._is_failing = True
            self._pulled = {**self._flushing, **self._pulled}
            for digest in [*self._pulled][:-_MOST_UNWRITTEN]:
                del self._pulled[digest]
        except BaseException:
            self._pulled = {**self._flushing, **self._pulled}
            raise
        else:
            self._is_failing = False
        finally:
            self._flushing = {}
            self._flush_lock.release()
