"""An index that is replaced while the daemon runs when its file is damaged, and rebuilt from the store."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from threading import RLock
from typing import Final, TypeVar

from twisted.logger import Logger

from contentcache.core.digest import Digest
from contentcache.core.ports import Clock, Run
from contentcache.storage.index_memory import MemoryIndex
from contentcache.storage.interfaces import (
    Affirmation,
    BlobIndex,
    BlobRecord,
    Index,
    IndexDamaged,
    Link,
    StorageError,
    Store,
    StoredFile,
    Tag,
    TagRecord,
)

T = TypeVar("T")

#: A file that is damaged so often within so many seconds lies on a broken disk: it is left alone for a while.
MOST_DAMAGES: Final = 3
SPAN: Final = 600.0
#: After so many seconds an index that could not be opened is tried again.
TRY_AGAIN: Final = 30.0
#: Files that are listed at a time.
_BATCH: Final = 1000

_log = Logger()


class RecoveringIndex:
    """
    An :class:`~contentcache.storage.interfaces.Index` over one that ``open_index`` opens, and its successors.

    A call that meets damage is answered by the index that takes the damaged one's place, and which knows
    nothing: that fails closed. Where none can be opened, memory stands in until one can. After each change
    ``anew`` is called, in the thread that met it: the store must be listed.

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
        anew: Callable[[], None],
    ) -> None:
        self._open_index = open_index
        self._monotonic = monotonic
        self._anew = anew
        self._lock = RLock()
        self._index: Index = MemoryIndex() if first is None else first
        self._stands_in = first is None
        self._try_at = monotonic() + TRY_AGAIN
        self._damages: deque[float] = deque(maxlen=MOST_DAMAGES)
        self._listings = int(self._index.rebuilt)
        self._closed = False

    @property
    def fault(self) -> str | None:
        """What keeps the index from its file now, if anything does."""
        return "the index cannot be kept on the disk, and is in memory for now" if self._stands_in else None

    @property
    def rebuilt(self) -> bool:
        """Whether the store must be listed."""
        return self._ask(lambda index: index.rebuilt)

    def rebuild_done(self) -> None:
        """
        The store was listed to its end. That counts once every listing is done that was asked for: one that
        began before the index was made anew has told this one only half.
        """
        with self._lock:
            self._listings = max(0, self._listings - 1)
            index = self._index
            if self._listings > 0:
                return
            try:
                index.rebuild_done()
            except IndexDamaged as error:  # the one that takes its place has been told nothing
                self._replace(index, error)

    def close(self) -> None:
        """Write what waits and give everything back."""
        with self._lock:
            self._closed = True
            self._index.close()

    def blob(self, digest: Digest) -> BlobRecord | None:
        """The record of one blob."""
        return self._ask(lambda index: index.blob(digest))

    def record(self, blobs: Iterable[BlobRecord]) -> None:
        """Add blobs, or replace what is known of them."""
        records = list(blobs)  # they may be asked for twice
        self._ask(lambda index: index.record(records))

    def touch(self, pulls: Mapping[Digest, float]) -> None:
        """Set last pulls."""
        self._ask(lambda index: index.touch(pulls))

    def forget(self, digests: Iterable[Digest]) -> None:
        """These blobs are gone."""
        gone = list(digests)
        self._ask(lambda index: index.forget(gone))

    def least_recent(
        self, limit: int, before: float | None = None, after: BlobRecord | None = None
    ) -> Sequence[BlobRecord]:
        """At most ``limit`` records, least recently pulled first."""
        return self._ask(lambda index: index.least_recent(limit, before, after))

    def following(self, digest: Digest | None, limit: int) -> Sequence[BlobRecord]:
        """At most ``limit`` records in the order of their digests."""
        return self._ask(lambda index: index.following(digest, limit))

    def possesses(self, origin: str, digest: Digest) -> bool:
        """Whether ``origin`` has delivered these stored bytes, or proved that it has them."""
        return self._ask(lambda index: index.possesses(origin, digest))

    def record_possession(self, origin: str, digest: Digest) -> None:
        """``origin`` has delivered these bytes or proved that it has them."""
        self._ask(lambda index: index.record_possession(origin, digest))

    def total(self) -> int:
        """Bytes of all recorded blobs."""
        return self._ask(lambda index: index.total())

    def shift(self, seconds: float, now: float) -> None:
        """Move every last pull by ``seconds``, none beyond ``now``."""
        self._ask(lambda index: index.shift(seconds, now))

    def affirmation(self, link: Link) -> Affirmation | None:
        """When a link was affirmed, if ever."""
        return self._ask(lambda index: index.affirmation(link))

    def affirm(self, link: Link, affirmation: Affirmation) -> None:
        """Remember a 2xx of the origin."""
        self._ask(lambda index: index.affirm(link, affirmation))

    def revoke(self, link: Link) -> None:
        """The origin denies it."""
        self._ask(lambda index: index.revoke(link))

    def tag(self, tag: Tag) -> TagRecord | None:
        """What a tag meant when it was last asked."""
        return self._ask(lambda index: index.tag(tag))

    def remember_tag(self, tag: Tag, record: TagRecord) -> None:
        """Remember what a tag means."""
        self._ask(lambda index: index.remember_tag(tag, record))

    def purge(self, before: float, limit: int) -> int:
        """Forget old links and tags."""
        return self._ask(lambda index: index.purge(before, limit))

    def _ask(self, call: Callable[[Index], T]) -> T:
        while True:  # ends: after a few damages it is memory that answers
            index = self._now()
            try:
                return call(index)
            except IndexDamaged as error:
                self._replace(index, error)
            except OSError:
                if index is self._index:
                    raise
                # Another thread has found it damaged meanwhile, and closed it.

    def _now(self) -> Index:
        """The index to ask; one that stood in gives way to a file as soon as there can be one."""
        with self._lock:
            if self._stands_in and not self._closed and self._monotonic() >= self._try_at:
                self._try_file()
                if not self._stands_in:
                    self._log.info("the index is kept on the disk again")
                    self._list_anew()
            return self._index

    def _replace(self, damaged: Index, error: IndexDamaged) -> None:
        with self._lock:
            if self._index is not damaged or self._closed:
                return
            self._log.error("{error}", error=str(error))
            with suppress(OSError, StorageError):
                damaged.close()
            now = self._monotonic()
            often = len(self._damages) == MOST_DAMAGES and now - self._damages[0] < SPAN
            self._damages.append(now)
            if often:
                self._stand_in("it is damaged again and again", SPAN)
            else:
                self._try_file()
            self._list_anew()

    def _try_file(self) -> None:
        try:
            index = self._open_index()
        except (OSError, StorageError) as error:
            self._stand_in(str(error), TRY_AGAIN)
        else:
            self._index, self._stands_in = index, False

    def _stand_in(self, reason: str, seconds: float) -> None:
        self._try_at = self._monotonic() + seconds
        if not self._stands_in:
            self._log.error("the index is in memory for now: {reason}", reason=reason)
            self._index, self._stands_in = MemoryIndex(), True

    def _list_anew(self) -> None:
        self._listings += 1
        self._anew()


async def rebuild_index(store: Store, index: Index, run: Run, now: Clock, monotonic: Clock) -> None:
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
