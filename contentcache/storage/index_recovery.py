"""An index that is replaced while the daemon runs when its file is damaged, and rebuilt from the store."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from threading import RLock
from typing import Any, Final

from twisted.logger import Logger

from contentcache.core.ports import Clock, Run
from contentcache.storage.index_forwarding import ForwardingIndex
from contentcache.storage.index_memory import MemoryIndex
from contentcache.storage.interfaces import (
    BlobIndex,
    BlobRecord,
    Index,
    IndexDamaged,
    IndexLimits,
    StorageError,
    Store,
    StoredFile,
)

#: A file that is damaged so often within so many seconds is on a broken disk: it is not opened for a while.
MOST_DAMAGES: Final = 3
SPAN: Final = 600.0
#: Seconds until an index that could not be opened is tried again.
TRY_AGAIN: Final = 30.0
#: Files that are listed at a time.
_BATCH: Final = 1000

_log = Logger()


class RecoveringIndex(ForwardingIndex):
    """
    An :class:`~contentcache.storage.interfaces.Index` over one that ``open_index`` opens, and its successors.

    A call that finds damage is answered by the index that replaces the damaged one, and which is empty: that
    fails closed. Where none can be opened, a :class:`MemoryIndex` is used until one can. After each change
    ``replaced`` is called, in the thread that found the damage: the store must be listed.

    ``first`` is the index that was opened at the start, ``None`` where the disk did not allow it.
    ``monotonic`` is in seconds.
    """

    _log = Logger()

    def __init__(
        self,
        open_index: Callable[[], Index],
        first: Index | None,
        *,
        monotonic: Clock,
        replaced: Callable[[], None],
        limits: IndexLimits | None = None,
    ) -> None:
        self._open_index = open_index
        self._monotonic = monotonic
        self._replaced = replaced
        self._lock = RLock()
        self._limits = limits
        self._index: Index = MemoryIndex(limits) if first is None else first
        self._in_memory = first is None
        self._try_at = monotonic() + TRY_AGAIN
        self._damages: deque[float] = deque(maxlen=MOST_DAMAGES)
        self._listings = int(self._index.rebuilt)
        self._closed = False

    @property
    def fault(self) -> str | None:
        """What keeps the index from its file now, if anything does."""
        return "the index cannot be kept on the disk, and is in memory for now" if self._in_memory else None

    def rebuild_done(self) -> None:
        """
        The store was listed to its end. That counts once every listing that was asked for is done: one that
        began before the index was replaced has filled this one only in part.
        """
        with self._lock:
            self._listings = max(0, self._listings - 1)
            index = self._index
            if self._listings > 0:
                return
            try:
                index.rebuild_done()
            except IndexDamaged as error:  # the one that replaces it is empty
                self._replace(index, error)

    def close(self) -> None:
        """Write what waits, and close."""
        with self._lock:
            self._closed = True
            self._index.close()

    def _forward(self, name: str, *args: Any, **kwargs: Any) -> Any:
        while True:  # ends: after a few damages memory answers
            index = self._now()
            try:
                attribute = getattr(index, name)
                return attribute(*args, **kwargs) if callable(attribute) else attribute
            except IndexDamaged as error:
                self._replace(index, error)
            except OSError:
                if index is self._index:
                    raise
                # Another thread has found it damaged meanwhile, and closed it.

    def _now(self) -> Index:
        """The index to ask; a file replaces memory as soon as there can be one."""
        with self._lock:
            if self._in_memory and not self._closed and self._monotonic() >= self._try_at:
                self._try_file()
                if not self._in_memory:
                    self._log.info("index stored on disk again")
                    self._request_listing()
            return self._index

    def _replace(self, damaged: Index, error: IndexDamaged) -> None:
        with self._lock:
            if self._index is not damaged or self._closed:
                return
            self._log.error("index damaged", reason=error)
            with suppress(OSError, StorageError):
                damaged.close()
            now = self._monotonic()
            often = len(self._damages) == MOST_DAMAGES and now - self._damages[0] < SPAN
            self._damages.append(now)
            if often:
                self._use_memory("it is damaged again and again", SPAN)
            else:
                self._try_file()
            self._request_listing()

    def _try_file(self) -> None:
        try:
            index = self._open_index()
        except (OSError, StorageError) as error:
            self._use_memory(str(error), TRY_AGAIN)
        else:
            self._index, self._in_memory = index, False

    def _use_memory(self, reason: str, seconds: float) -> None:
        self._try_at = self._monotonic() + seconds
        if not self._in_memory:
            self._log.error("index kept in memory for now", reason=reason)
            self._index, self._in_memory = MemoryIndex(self._limits), True

    def _request_listing(self) -> None:
        self._listings += 1
        self._replaced()


async def rebuild_index(store: Store, index: Index, run: Run, now: Clock, monotonic: Clock) -> None:
    """Call :func:`rebuild` and log the result, or the error of the disk."""
    started = monotonic()
    try:
        listed = await rebuild(store, index, run, now)
    except OSError as error:
        _log.error("store not listed, next start tries again", reason=error)
        return
    if listed:
        _log.info("index rebuilt", blobs=listed, seconds=round(monotonic() - started, 1))


async def rebuild(store: Store, index: Index, run: Run, now: Clock) -> int:
    """
    List the store into the index; returns how many blobs there are.

    They count as pulled when their files were last written, and as not verified. Blobs that the index knows
    already, because they were pulled meanwhile or listed before a crash, stay as they are. Each batch is a
    call of its own to the threads, so that a million files block neither the reactor nor the pool.
    """
    files = store.blobs()
    listed = 0
    while batch := await run(_list_batch, files, index, now):
        listed += batch
    await run(index.rebuild_done)
    return listed


def _list_batch(files: Iterator[StoredFile], index: BlobIndex, now: Clock) -> int:
    batch = list(islice(files, _BATCH))
    latest = now()
    unknown = [
        BlobRecord(file.digest, file.size, pulled=min(file.modified, latest), verified=False)
        for file in batch
        if index.blob(file.digest) is None
    ]
    if unknown:
        index.record(unknown)
    return len(batch)
