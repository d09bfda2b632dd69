"""
Who looks whether stored blobs are still what they were.

A disk may give back other bytes than it took, years later and without a word. This goes round the store, one
blob at a time in the order of their digests, so slowly that a round takes as long as the operator said.
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
#: The longest pause, in seconds, after which the pace is reckoned anew.
LONGEST_PAUSE: Final = 60.0
#: How long it rests where the disk does not even let the index be read, or nothing be read at all.
REST: Final = 3600.0

_LONGEST_BREATH: Final = 1.0
#: So many unreadable blobs in a row are a broken disk and not broken blobs.
_MOST_UNREADABLE: Final = 3
#: What a disk says of a place that cannot be read. Anything else (no descriptor, no memory) says nothing.
_UNREADABLE: Final = frozenset({errno.EIO, errno.EBADMSG, errno.EUCLEAN, errno.ENODATA})

Verdict = Literal["right", "wrong", "unreadable", "unknown"]


class Bookmark:
    """
    Where the round stands, in a small file that outlives the daemon; without a ``path``, in nothing.

    It is worth a look at some blobs once more and no error: what cannot be read is the beginning.
    """

    def __init__(self, path: str | None) -> None:
        self._path = path

    def read(self) -> Digest | None:
        """The last digest that was looked at. Blocks."""
        if self._path is None:
            return None
        try:
            return Digest.parse((read_note(self._path) or b"").decode("ascii").strip())
        except (OSError, UnicodeDecodeError, DigestInvalid):
            return None

    def write(self, digest: Digest | None) -> None:
        """Remember it. Blocks."""
        if self._path is None:
            return
        with suppress(OSError):
            write_note(self._path, b"" if digest is None else f"{digest}\n".encode("ascii"))


class Scrubber:
    """
    Hashes each verified blob again, about once in ``period`` seconds.

    A blob that is wrong or cannot be read goes, file and record, so that it is fetched again. Where
    ``in_use`` says that somebody has it, it only counts as not verified any more, which lets nobody new have
    it, and goes later. The index is read for each blob and written for bad ones; last pulls stay as they are.

    ``checked`` hears of each blob whether it was right. The disk is touched by ``run`` only.
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
        """Go round until :meth:`stop`."""
        self._stopping = False
        self._ended = Deferred.fromCoroutine(self._go_round())

    def stop(self) -> Deferred[None]:
        """Go no further. Fires when no thread works for it any more."""
        self._stopping = True
        self._pausing.cancel()
        return self._ended

    async def _go_round(self) -> None:
        place = await self._run(self._bookmark.read)
        while not self._stopping:
            try:
                place = await self._step(place)
            except Exception:  # noqa: BLE001 - a check that is broken must not end all others
                self._log.failure("scrub failed, paused", retry_in=f"{REST:.0f}s")
                await self._pause(REST)
        await self._run(self._bookmark.write, place)

    async def _step(self, place: Digest | None) -> Digest | None:
        await self._take_bad_away()
        found = await self._run(self._index.following, place, 1)
        if not found:
            await self._pause(min(LONGEST_PAUSE, self._period))
            return None
        record = found[0]
        started = self._timer.seconds()
        if record.verified:  # what is not is hashed before its first use anyway
            await self._judge(record)
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

    async def _judge(self, record: BlobRecord) -> None:
        verdict = await self._read(record)
        if verdict == "unknown":
            return
        self._unreadable = self._unreadable + 1 if verdict == "unreadable" else 0
        self._checked(verdict == "right")
        if verdict == "wrong" or 0 < self._unreadable < _MOST_UNREADABLE:
            await self._condemn(record, "digest mismatch" if verdict == "wrong" else "not readable")

    async def _read(self, record: BlobRecord) -> Verdict:
        try:
            file = await self._run(self._store.open, record.digest)
        except BlobUnknown:
            return await self._missing(record)
        except OSError as error:
            return self._cannot_read(record, error)
        try:
            if file.size != record.size:
                return "wrong"
            return await self._hash(record, file)
        except OSError as error:
            return self._cannot_read(record, error)
        finally:
            file.close()

    async def _hash(self, record: BlobRecord, file: BlobFile) -> Verdict:
        hasher = record.digest.hasher()
        offset = 0
        while offset < record.size and not self._stopping:
            before = self._timer.seconds()
            read = await self._run(_hash_piece, file, offset, hasher)
            if not read:
                return "wrong"  # it became shorter while it was read
            offset += read
            # It never takes more than half of the disk's time, whatever was asked for.
            took = self._timer.seconds() - before
            share = await self._seconds_for(read)
            await self._pause(max(took, min(share, _LONGEST_BREATH)))
        if offset < record.size:
            return "unknown"
        return "right" if record.digest.is_of(hasher) else "wrong"

    async def _missing(self, record: BlobRecord) -> Verdict:
        if not self._in_use(record.digest):
            await self._run(self._forget, record, with_file=False)
        return "unknown"

    def _cannot_read(self, record: BlobRecord, error: OSError) -> Verdict:
        if error.errno in _UNREADABLE:
            return "unreadable"
        self._log.warn("stored blob not checked", digest=record.digest, reason=error)
        return "unknown"

    async def _condemn(self, record: BlobRecord, reason: str) -> None:
        self._log.error("stored blob corrupt, deleted", digest=record.digest, reason=reason)
        self._bad[record.digest] = record
        await self._take_bad_away()
        if record.digest in self._bad:
            await self._run(self._doubt, record)

    async def _take_bad_away(self) -> None:
        for digest, record in tuple(self._bad.items()):
            if self._in_use(digest):
                continue
            try:
                await self._run(self._forget, record)
            except OSError as error:
                self._log.warn("stored blob not deleted", digest=digest, reason=error)
            else:
                del self._bad[digest]

    def _doubt(self, record: BlobRecord) -> None:
        """In a thread: whoever comes now has it hashed first."""
        now = self._index.blob(record.digest)
        if now is not None and now.verified:
            self._index.record([evolve(now, verified=False)])

    def _forget(self, record: BlobRecord, *, with_file: bool = True) -> None:
        """In a thread: take it away, unless it has been fetched again since it was looked at."""
        now = self._index.blob(record.digest)
        if now is None or (now.verified and now.pulled != record.pulled):
            return
        if with_file:
            self._store.delete(record.digest)
        self._index.forget((record.digest,))

    async def _keep_pace(self, size: int, spent: float) -> None:
        """Wait until the time is over that so many bytes of the store have; a little has been spent."""
        left = float(size)
        seconds = await self._seconds_for(size) - spent
        while seconds > 0 and not self._stopping:
            pause = min(seconds, LONGEST_PAUSE)
            await self._pause(pause)
            # Meanwhile the store may have become larger or smaller, and the share with it.
            left *= 1 - pause / seconds
            seconds = await self._seconds_for(left)
            await self._take_bad_away()

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
