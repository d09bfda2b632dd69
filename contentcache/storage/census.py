"""
What is in a store, by age, looked at a little at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Final

from attrs import frozen

from contentcache.core.digest import Digest
from contentcache.core.eviction import Candidate
from contentcache.core.ports import Run
from contentcache.storage.interfaces import BlobRecord, Index, Store

_BATCH: Final = 200


@frozen
class Stock:
    """
    Bytes of blobs and partial files together, bytes free on the disk, and the partial files, oldest first.
    """

    stored: int
    free: int | None
    partials: tuple[Candidate, ...]


class Census:
    """
    Counts what is here, and finds what is oldest, without looking at the rest.
    """

    def __init__(self, store: Store, index: Index, run: Run, in_use: Callable[[Digest], bool]) -> None:
        self._store = store
        self._index = index
        self._run = run
        self._in_use = in_use

    async def stock(self) -> Stock:
        """How much there is now. Partial files are listed, there are few; blobs are not."""
        return await self._run(self._count)

    async def oldest(
        self, partials: tuple[Candidate, ...], before: float | None = None
    ) -> AsyncIterator[Candidate]:
        """
        What nobody uses, oldest first: these partial files, and the blobs last pulled before ``before``.
        """
        waiting = deque(partials)
        last: BlobRecord | None = None
        while batch := await self._run(self._index.least_recent, _BATCH, before, last):
            last = batch[-1]
            for record in batch:
                while waiting and waiting[0].since <= record.pulled:
                    partial = waiting.popleft()
                    if not self._in_use(partial.digest):
                        yield partial
                if not self._in_use(record.digest):
                    yield Candidate(record.digest, record.size, record.pulled, partial=False)
        for partial in waiting:
            if not self._in_use(partial.digest):
                yield partial

    def _count(self) -> Stock:
        partials = [
            Candidate(file.digest, file.size, file.modified, partial=True, tag=file.tag)
            for file in self._store.partials()
        ]
        partials.sort(key=lambda partial: partial.since)
        stored = self._index.total() + sum(partial.size for partial in partials)
        return Stock(stored, self._store.free(), tuple(partials))
