"""How much is in the store, for metrics and pages: what is said at once, whatever the disk does."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Final

from attrs import frozen

from contentcache.aio.single_flight import SingleFlight
from contentcache.aio.tasks import DeadlineError, with_timeout
from contentcache.core.ports import Run, Timer
from contentcache.storage.interfaces import Index, IndexDamaged, Store

#: Seconds for which figures are not read again.
_FRESH: Final = 1.0
#: Seconds that readers wait for a slow disk; then they get the figures of the last time.
_TIMEOUT: Final = 1.0


@frozen
class Figures:
    """
    The number of ``blobs`` and their bytes (``stored``), the bytes of ``partial`` files, and how many more can be
    written (``free``, infinite where there is no bound). None of them is known before they are first read.
    """

    blobs: float = math.nan
    stored: float = math.nan
    partial: float = math.nan
    free: float = math.nan


class StoreFigures:
    """
    The figures of a store. Blobs are not listed: the index knows their number and bytes; partial files are, there
    are few.
    """

    def __init__(self, store: Store, index: Index, run: Run, timer: Timer) -> None:
        self._store = store
        self._index = index
        self._run = run
        self._timer = timer
        self._reads: SingleFlight[None, None] = SingleFlight()
        self._read_at = -math.inf
        #: As they were last read.
        self.now = Figures()

    async def refresh(self) -> None:
        """Read the figures in a thread. They stay as they are where the disk or the index fails, or is slow."""
        if self._timer.seconds() - self._read_at < _FRESH:
            return
        with suppress(DeadlineError, OSError, IndexDamaged):
            await with_timeout(self._timer, _TIMEOUT, self._reads.run(None, self._read))

    async def _read(self) -> None:
        self.now = await self._run(self._count)
        self._read_at = self._timer.seconds()

    def _count(self) -> Figures:
        free = self._store.free()
        return Figures(
            self._index.count(),
            self._index.total(),
            sum(partial.size for partial in self._store.partials()),
            math.inf if free is None else free,
        )
