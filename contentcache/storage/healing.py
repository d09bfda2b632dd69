"""An index that is made anew while the daemon runs, when its file turns out to be damaged."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from threading import RLock
from typing import Final, TypeVar

from twisted.logger import Logger

from contentcache.core.digest import Digest
from contentcache.core.ports import Clock
from contentcache.storage.errors import IndexDamaged, StorageRefused
from contentcache.storage.interfaces import Affirmation, BlobRecord, Index, Link, Tag, TagRecord
from contentcache.storage.memory_index import MemoryIndex

T = TypeVar("T")

#: A file that is damaged so often within so many seconds lies on a broken disk: it is left alone for a while.
MOST_DAMAGES: Final = 3
SPAN: Final = 600.0
#: After so many seconds an index that could not be opened is tried again.
TRY_AGAIN: Final = 30.0


class HealingIndex:
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
            with suppress(OSError, StorageRefused):
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
        except (OSError, StorageRefused) as error:
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
