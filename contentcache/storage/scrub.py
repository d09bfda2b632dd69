"""
Scrubbing: stored blobs are hashed again, one at a time, since a disk may return other bytes than were written.

A round over the store goes in the order of digests, and takes as long as the operator said.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Literal, cast

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from contentcache.core.digest import Digest, Hasher
from contentcache.core.errors import BlobUnknown, DigestInvalid
from contentcache.core.ports import Run, Timer
from contentcache.storage.interfaces import BlobFile, BlobRecord, Index, Store
from contentcache.storage.partial_files import read_note, write_note

#: Bytes that are read at a time.
PIECE: Final = 256 << 10
#: The longest pause, in seconds, before the pace is computed again.
LONGEST_PAUSE: Final = 60.0
#: Seconds of the pause where the index, or nothing at all, can be read.
REST: Final = 3600.0

_LONGEST_WAIT: Final = 1.0
#: This many unreadable blobs in a row are a broken disk and not broken blobs.
_MOST_UNREADABLE: Final = 3
#: Errors of bytes that cannot be read. Any other (no descriptor, no memory) says nothing of the blob.
_UNREADABLE: Final = frozenset({errno.EIO, errno.EBADMSG, errno.EUCLEAN, errno.ENODATA})

BlobState = Literal["intact", "corrupt", "unreadable", "unknown"]


class Bookmark:
    """
    The position of the round, in a small file that outlives the daemon; without a ``path``, nowhere.

    What cannot be read means the beginning: then some blobs are hashed once more.
    """

    def __init__(self, path: str | None) -> None:
        self._path = path

    def read(self) -> Digest | None:
        """The last digest that was checked. Blocks."""
        if self._path is None:
            return None
        try:
            return Digest.parse((read_note(self._path) or b"").decode("ascii").strip())
        except (OSError, UnicodeDecodeError, DigestInvalid):
            return None

    def write(self, digest: Digest | None) -> None:
        """Store it. Blocks."""
        if self._path is None:
            return
        with suppress(OSError):
            write_note(self._path, b"" if digest is None else f"{digest}\n".encode("ascii"))


class Scrubber:
    """
    Hashes each verified blob again, about once in ``period`` seconds.

    A blob that is corrupt or cannot be read is deleted, file and record, so that it is downloaded again. Where it
    is ``in_use``, it only counts as not verified any more, so that no new reader gets it, and is deleted later.
    The index is read for each blob and written for bad ones; last pulls stay as they are.

    ``checked`` is called for each blob with whether it was intact. Only ``run`` touches the disk.
    """

    _log = Logger()

    def __init__(
        self,
        store: Store,
        index: Index,
        period: float,
        *,
        bookmark: Bookmark,
        in_use: Callable[[Digest], bool],
        run: Run,
        timer: Timer,
        checked: Callable[[bool], None],
    ) -> None:
        self._store = store
        self._index = index
        self._period = period
        self._bookmark = bookmark
        self._in_use = in_use
        self._run = run
        self._timer = timer
        self._checked = checked
        self._bad: dict[Digest, BlobRecord] = {}
        self._unreadable = 0
        self._noted = timer.seconds()
        self._stopping = False
        self._pausing: Deferred[None] = succeed(None)
        self._ended: Deferred[None] = succeed(None)

    def start(self) -> None:
        """Scrub until :meth:`stop`."""
        self._stopping = False
        self._ended = Deferred.fromCoroutine(self._scrub_forever())

    def stop(self) -> Deferred[None]:
        """Stop. Fires when no thread works for it any more."""
        self._stopping = True
        self._pausing.cancel()
        return self._ended

    async def _scrub_forever(self) -> None:
        place = await self._run(self._bookmark.read)
        while not self._stopping:
            try:
                place = await self._step(place)
            except Exception:  # noqa: BLE001 - one failure must not end the round
                self._log.failure("scrub failed, paused", retry_in=f"{REST:.0f}s")
                await self._pause(REST)
        await self._run(self._bookmark.write, place)

    async def _step(self, place: Digest | None) -> Digest | None:
        await self._delete_bad()
        found = await self._run(self._index.following, place, 1)
        if not found:
            await self._pause(min(LONGEST_PAUSE, self._period))
            return None
        record = found[0]
        started = self._timer.seconds()
        if record.verified:  # other blobs are hashed before their first use anyway
            await self._check(record)
        if self._stopping:
            return place
        if self._unreadable >= _MOST_UNREADABLE:
            self._log.error("disk not readable, scrub paused", retry_in=f"{REST:.0f}s")
            self._unreadable = 0
            await self._pause(REST)
        await self._keep_pace(record.size, self._timer.seconds() - started)
        if self._timer.seconds() - self._noted >= LONGEST_PAUSE:
            self._noted = self._timer.seconds()
            await self._run(self._bookmark.write, record.digest)
        return record.digest

    async def _check(self, record: BlobRecord) -> None:
        state = await self._read(record)
        if state == "unknown":
            return
        self._unreadable = self._unreadable + 1 if state == "unreadable" else 0
        self._checked(state == "intact")
        if state == "corrupt" or 0 < self._unreadable < _MOST_UNREADABLE:
            await self._report_bad(record, "digest mismatch" if state == "corrupt" else "not readable")

    async def _read(self, record: BlobRecord) -> BlobState:
        try:
            file = await self._run(self._store.open, record.digest)
        except BlobUnknown:
            return await self._missing(record)
        except OSError as error:
            return self._cannot_read(record, error)
        try:
            if file.size != record.size:
                return "corrupt"
            return await self._hash(record, file)
        except OSError as error:
            return self._cannot_read(record, error)
        finally:
            file.close()

    async def _hash(self, record: BlobRecord, file: BlobFile) -> BlobState:
        hasher = record.digest.hasher()
        offset = 0
        while offset < record.size and not self._stopping:
            before = self._timer.seconds()
            read = await self._run(_hash_piece, file, offset, hasher)
            if not read:
                return "corrupt"  # it became shorter while it was read
            offset += read
            # It never takes more than half of the disk's time, whatever the period is.
            took = self._timer.seconds() - before
            share = await self._seconds_for(read)
            await self._pause(max(took, min(share, _LONGEST_WAIT)))
        if offset < record.size:
            return "unknown"
        return "intact" if record.digest.is_of(hasher) else "corrupt"

    async def _missing(self, record: BlobRecord) -> BlobState:
        if not self._in_use(record.digest):
            await self._run(self._forget, record, with_file=False)
        return "unknown"

    def _cannot_read(self, record: BlobRecord, error: OSError) -> BlobState:
        if error.errno in _UNREADABLE:
            return "unreadable"
        self._log.warn("stored blob not checked", digest=record.digest, reason=error)
        return "unknown"

    async def _report_bad(self, record: BlobRecord, reason: str) -> None:
        names = await self._run(self._index.names, record.digest)
        self._log.error(
            "stored blob corrupt, deleted",
            digest=record.digest,
            repository=names.repositories,
            tag=names.tags,
            reason=reason,
        )
        self._bad[record.digest] = record
        await self._delete_bad()
        if record.digest in self._bad:
            await self._run(self._mark_unverified, record)

    async def _delete_bad(self) -> None:
        for digest, record in tuple(self._bad.items()):
            if self._in_use(digest):
                continue
            try:
                await self._run(self._forget, record)
            except OSError as error:
                self._log.warn("stored blob not deleted", digest=digest, reason=error)
            else:
                del self._bad[digest]

    def _mark_unverified(self, record: BlobRecord) -> None:
        """In a thread: the next reader hashes it first."""
        now = self._index.blob(record.digest)
        if now is not None and now.verified:
            self._index.record([evolve(now, verified=False)])

    def _forget(self, record: BlobRecord, *, with_file: bool = True) -> None:
        """In a thread: delete it, unless it has been downloaded again since it was checked."""
        now = self._index.blob(record.digest)
        if now is None or (now.verified and now.pulled != record.pulled):
            return
        if with_file:
            self._store.delete(record.digest)
        self._index.forget((record.digest,))

    async def _keep_pace(self, size: int, spent: float) -> None:
        """Wait for the share of the period that ``size`` bytes of the store have, less what was ``spent``."""
        left = float(size)
        seconds = await self._seconds_for(size) - spent
        while seconds > 0 and not self._stopping:
            pause = min(seconds, LONGEST_PAUSE)
            await self._pause(pause)
            # Meanwhile the store, and so the share, may have changed.
            left *= 1 - pause / seconds
            seconds = await self._seconds_for(left)
            await self._delete_bad()

    async def _seconds_for(self, size: float) -> float:
        total = await self._run(self._index.total)
        return self._period * min(1.0, size / total) if total > 0 else 0.0

    async def _pause(self, seconds: float) -> None:
        if self._stopping:
            return
        self._pausing = deferLater(cast("IReactorTime", self._timer), seconds)
        with suppress(CancelledError):
            await self._pausing


def _hash_piece(file: BlobFile, offset: int, hasher: Hasher) -> int:
    data = file.read(offset, PIECE)
    hasher.update(data)
    return len(data)
