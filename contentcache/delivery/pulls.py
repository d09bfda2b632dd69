"""Who reads what now, and when each content was last pulled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

from twisted.internet.defer import DeferredLock
from twisted.logger import Logger

from contentcache.core.digest import Digest
from contentcache.core.ports import Clock, Run
from contentcache.storage.interfaces import BlobIndex

#: Last pulls that are remembered while the index cannot be written.
_MOST_UNWRITTEN: Final = 100_000


class Pulls:
    """
    Readers, and last pulls that the index hears of in batches. ``wall`` is in seconds since the epoch.
    ``noticed`` hears of each content that is read or pulled.
    """

    _log = Logger()

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
        self._is_failing = False

    def __contains__(self, digest: Digest) -> bool:
        """
        Whether somebody reads it, or its last pull is not in the index yet. While the index cannot be
        written, only readers count: on a full disk nothing could be evicted otherwise.
        """
        if digest in self._readers:
            return True
        return not self._is_failing and (digest in self._pulled or digest in self._flushing)

    def begin(self, digest: Digest) -> None:
        """A reader takes it; :meth:`end` is owed."""
        self._noticed(digest)  # first: if it raises, nothing is owed
        self._readers[digest] += 1

    def end(self, digest: Digest) -> None:
        """The reader has done."""
        self._readers[digest] -= 1
        if self._readers[digest] <= 0:
            del self._readers[digest]
        self.note(digest)

    def note(self, digest: Digest) -> None:
        """It is being pulled now."""
        self.noted(digest, self._wall())

    def noted(self, digest: Digest, now: float) -> None:
        """The same for who knows what time it is."""
        self._pulled[digest] = now
        self._noticed(digest)

    async def flush(self) -> None:
        """
        Write the last pulls into the index. Where the disk refuses it, they are written the next time: no
        request, and no room that is made for one, fails because of it.
        """
        await self._turn.acquire()
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
            self._turn.release()
