"""
Who reads what now, and when each content was last pulled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from twisted.internet.defer import DeferredLock

from contentcache.core.digest import Digest
from contentcache.core.ports import Clock, Run
from contentcache.storage.interfaces import BlobIndex


class Pulls:
    """
    Readers, and last pulls that the index hears of in batches. ``wall`` is in seconds since the epoch.
    ``noticed`` hears of each content that is read or pulled.
    """

    def __init__(
        self, index: BlobIndex, run: Run, wall: Clock, noticed: Callable[[Digest], None] = lambda _: None
    ) -> None:
        self._index = index
        self._run = run
        self._wall = wall
        self._noticed = noticed
        self._readers: Counter[Digest] = Counter()
        self._pulled: dict[Digest, float] = {}
        self._flushing: dict[Digest, float] = {}
        self._turn = DeferredLock()

    def __contains__(self, digest: Digest) -> bool:
        """
        Whether somebody reads it, or its last pull is not in the index yet.
        """
        return digest in self._readers or digest in self._pulled or digest in self._flushing

    def begin(self, digest: Digest) -> None:
        """
        A reader takes it; :meth:`end` is owed.
        """
        self._readers[digest] += 1
        self._noticed(digest)

    def end(self, digest: Digest) -> None:
        """
        The reader has done.
        """
        self._readers[digest] -= 1
        if self._readers[digest] <= 0:
            del self._readers[digest]
        self.note(digest)

    def note(self, digest: Digest) -> None:
        """
        It is being pulled now.
        """
        self.noted(digest, self._wall())

    def noted(self, digest: Digest, now: float) -> None:
        """
        The same for who knows what time it is.
        """
        self._pulled[digest] = now
        self._noticed(digest)

    async def flush(self) -> None:
        """
        Write the last pulls into the index.

        :raises OSError: the disk fails.
        """
        await self._turn.acquire()
        self._flushing, self._pulled = self._pulled, {}
        try:
            if self._flushing:
                await self._run(self._index.touch, self._flushing)
        except BaseException:
            self._pulled = {**self._flushing, **self._pulled}  # they are written another time
            raise
        finally:
            self._flushing = {}
            self._turn.release()
