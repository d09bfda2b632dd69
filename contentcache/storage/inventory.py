"""How much is in a store, and its oldest files, a batch at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Final

from attrs import frozen

from contentcache.core.digest import Digest
from contentcache.core.eviction import Candidate
from contentcache.core.ports import Run
from contentcache.storage.interfaces import BlobRecord, Index, Reservation, Store

_BATCH: Final = 200


@frozen
class StoreUsage:
    """
    Bytes of blobs, partial files and reservations together, bytes on the disk that are free and not reserved,
    and the partial files without a reservation, oldest first.
    """

    stored: int
    free: int | None
    partials: tuple[Candidate, ...]


class Inventory:
    """Counts what is in a store, and finds the oldest files without reading the rest."""

    def __init__(self, store: Store, index: Index, run: Run, in_use: Callable[[Digest], bool]) -> None:
        self._store = store
        self._index = index
        self._run = run
        self._in_use = in_use

    async def usage(self, reserved: Iterable[Reservation] = ()) -> StoreUsage:
        """
        How much there is now. Partial files are listed, there are few; blobs are not.

        A partial file of a running download counts with what is ``reserved`` for it, as if it were whole.
        """
        return await self._run(self._count, tuple(reserved))

    async def oldest(
        self, partials: tuple[Candidate, ...], before: float | None = None
    ) -> AsyncIterator[Candidate]:
        """Files not in use, oldest first: these partial files, and the blobs last pulled before ``before``."""
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

    def _count(self, reserved: Sequence[Reservation]) -> StoreUsage:
        free, written = self._store.free(), dict[tuple[Digest, str], int]()
        partials: list[Candidate] = []
        # A file has two where a download resumes it while subscribers of the previous one still read it.
        running: dict[tuple[Digest, str], int] = {}
        for each in reserved:
            if not each.unlinked:
                name = (each.digest, each.tag)
                running[name] = max(each.size, running.get(name, 0))
        for file in self._store.partials():
            if (file.digest, file.tag) in running:
                written[file.digest, file.tag] = file.size
            else:
                partials.append(Candidate(file.digest, file.size, file.modified, partial=True, tag=file.tag))
        partials.sort(key=lambda partial: partial.since)
        # What is being committed has a record already, and must not count twice.
        coming = {name: size for name, size in running.items() if self._index.blob(name[0]) is None}
        taken = sum(max(size, written.get(name, 0)) for name, size in coming.items())
        taken += sum(each.size for each in reserved if each.unlinked)
        owed = sum(max(0, size - written.get(name, 0)) for name, size in coming.items())
        stored = self._index.total() + taken + sum(partial.size for partial in partials)
        return StoreUsage(stored, None if free is None else free - owed, tuple(partials))
