"""An index that knows nothing, filled from what is in the store."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final

from twisted.logger import Logger

from contentcache.core.ports import Clock, Run
from contentcache.storage.interfaces import BlobIndex, BlobRecord, Index, Store, StoredFile

_BATCH: Final = 1000
_log = Logger()


async def rebuild_and_tell(store: Store, index: Index, run: Run, now: Clock, monotonic: Clock) -> None:
    """The same as :func:`rebuild` with a line in the log; a disk that fails is one too."""
    started = monotonic()
    try:
        listed = await rebuild(store, index, run, now)
    except OSError as error:
        _log.error("the store cannot be listed, the next start tries again: {error}", error=str(error))
        return
    if listed:
        _log.info(
            "the index is made anew from {listed} blobs in the store ({seconds:.1f} s)",
            listed=listed,
            seconds=monotonic() - started,
        )


async def rebuild(store: Store, index: Index, run: Run, now: Clock) -> int:
    """
    List the store into the index, and say how many blobs are there.

    They count as pulled when their files were last written, and as not verified. Blobs that the
    index knows already, because they were pulled meanwhile or listed before a crash, stay as they are.
    A thread is taken for one batch at a time, so that a million files keep neither the reactor nor
    the pool from their other work.
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
