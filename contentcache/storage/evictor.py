"""Eviction: blobs that were not pulled for long, and room for new ones."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Final, Literal, cast

from attrs import define, evolve, frozen
from twisted.internet.defer import CancelledError, Deferred, DeferredLock, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from contentcache.aio.tasks import locked
from contentcache.core.digest import Digest
from contentcache.core.eviction import Candidate, Retention, Shortfall, clock_jump, oldest_first, shortfall
from contentcache.core.live import Live
from contentcache.core.ports import Clock, Run, Timer
from contentcache.storage.interfaces import BlobNames, Index, IndexDamaged, Reservation, Store
from contentcache.storage.inventory import Inventory, StoreUsage

Reason = Literal["age", "size", "space"]

_BATCH: Final = 200
_ROUNDS: Final = 3
_MOST_FAILURES: Final = 100


@frozen
class SweepResult:
    """
    What a sweep did: ``rebased`` after a jump of the clock, else how many blobs, partial files and links were
    deleted, and the bytes of the files.
    """

    rebased: bool = False
    blobs: int = 0
    partials: int = 0
    links: int = 0
    bytes: int = 0


@define
class _Tally:
    """Counted while a sweep runs."""

    blobs: int = 0
    partials: int = 0
    bytes: int = 0
    failures: int = 0


class Evictor:
    """
    Keeps the store within the limits of ``retention``.

    The order comes from the index, a batch at a time, so a sweep costs as much as it deletes. Decisions and
    callbacks are in the reactor's thread, only ``run`` touches the disk.

    ``in_use`` says whether a digest is being read or downloaded, or a pull of it is not in the index yet: such a
    file is never deleted. ``evicted`` is called for each blob that was; partial files are only counted.
    """

    _log = Logger()

    def __init__(
        self,
        store: Store,
        index: Index,
        retention: Live[Retention],
        *,
        in_use: Callable[[Digest], bool],
        run: Run,
        wall: Clock,
        monotonic: Clock,
        evicted: Callable[[Digest, int, Reason, BlobNames], None],
    ) -> None:
        self._store = store
        self._index = index
        self._retention = retention
        self._in_use = in_use
        self._run = run
        self._wall = wall
        self._monotonic = monotonic
        self._evicted = evicted
        self.inventory = Inventory(store, index, run, in_use)
        self._seen = (wall(), monotonic())
        self._partials_from = self._seen[1]
        self._lock = DeferredLock()
        self._evicting: set[Digest] = set()
        self._reserved: dict[str, Reservation] = {}
        #: Bytes of files that were opened while they were being deleted.
        self._still_open: dict[Digest, int] = {}
        self._first: Deferred[None] = succeed(None)
        self._loop: LoopingCall | None = None
        self._ended: Deferred[object] = succeed(None)
        self._stopping = False
        retention.follow(self._use_interval)

    def _use_interval(self, retention: Retention) -> None:
        loop = self._loop
        if loop is not None and loop.running and loop.interval != retention.sweepinterval:
            loop.interval = retention.sweepinterval
            loop.reset()

    def start(self, timer: Timer) -> None:
        """Sweep from time to time, the first time after ``retention.first_sweep()`` seconds."""
        self._loop = loop = LoopingCall(lambda: Deferred.fromCoroutine(self._sweep_and_log()))
        loop.clock = clock = cast("IReactorTime", timer)
        self._stopping = False
        self._first = deferLater(clock, self._retention.now.first_sweep())
        self._ended = self._first.addCallback(lambda _: loop.start(self._retention.now.sweepinterval))
        self._ended.addErrback(_unless_cancelled)

    def stop(self) -> Deferred[object]:
        """Stop sweeping. Fires when a running sweep has ended, which it does at the next blob."""
        self._stopping = True
        if self._loop is not None and self._loop.running:
            self._loop.stop()
        else:
            self._first.cancel()
        return self._ended

    async def sweep(self) -> SweepResult:
        """
        Evict blobs that are too old, then as many as are too much, then purge old links.

        :raises OSError: the disk does not work.
        """
        now, mono = self._wall(), self._monotonic()
        jump = clock_jump(*self._seen, now, mono)
        try:
            await self._run(self._index.shift, jump, now)  # without a jump: pulls in the future count as now
            self._seen = (now, mono)  # not before: an index that failed must be shifted the next time
        except OSError as error:
            if jump:
                raise
            # A full disk, which only a sweep can make less full: nothing else depends on this.
            self._log.warn("last pulls not corrected", reason=error)
        if jump:
            # The index is shifted like the clock, the dates of files cannot be: from now on partial files must be
            # idle for a whole ``blobttl`` before their age counts again.
            self._partials_from = mono + (self._retention.now.blobttl or 0.0)
            self._log.warn("clock jumped, nothing deleted by this sweep", jump=f"{jump:.0f}s")
            return SweepResult(rebased=True)
        tally = _Tally()
        # Measured before anything is deleted: some filesystems free the space of deleted files much later, and
        # a second look would delete for the same bytes twice.
        usage = await self._count()
        await self._sweep_by_age(now, usage, tally)
        await self._sweep_by_size(tally)
        await self._sweep_by_space(usage, tally)
        links = await self._purge(now)
        return SweepResult(False, tally.blobs, tally.partials, links, tally.bytes)

    async def reserve(self, wanted: Reservation) -> str | None:
        """
        Reserve room for a download (:class:`~contentcache.storage.interfaces.Room`).

        Nothing is evicted where it would not be enough, or where the disk fails.
        """
        async with locked(self._lock):
            before = self._reserved.get(wanted.key)
            if before is not None and before.size >= wanted.size:
                return None
            self._reserved[wanted.key] = wanted
            lacking: str | None = "there is no room in the store: the disk fails"
            try:
                lacking = await self._fit(_Tally())
            except (OSError, IndexDamaged) as error:
                self._log.error("no space freed", bytes=wanted.size, reason=error)
            finally:
                # It may have been released meanwhile; and what does not fit is not reserved.
                if wanted.key not in self._reserved:
                    lacking = lacking or "the download has ended"
                elif lacking is not None and before is not None:
                    self._reserved[wanted.key] = before
                elif lacking is not None:
                    del self._reserved[wanted.key]
            return lacking

    def shrink(self, key: str, size: int, *, unlinked: bool) -> None:
        """Reserve no more than this from now on; nothing happens if there is no reservation."""
        before = self._reserved.get(key)
        if before is not None:
            self._reserved[key] = evolve(before, size=min(size, before.size), unlinked=unlinked)

    def release(self, key: str) -> None:
        """Release a reservation; nothing happens if there is none."""
        self._reserved.pop(key, None)

    def release_all(self, prefix: str) -> None:
        """Release the reservations whose keys begin with ``prefix``: a worker has ended."""
        for key in [key for key in self._reserved if key.startswith(prefix)]:
            del self._reserved[key]

    async def _sweep_and_log(self) -> None:
        try:
            swept = await self.sweep()
        except (OSError, IndexDamaged) as error:
            self._log.error("sweep failed, next one runs as planned", reason=error)
            return
        except Exception:  # noqa: BLE001 - a LoopingCall never calls again after one
            self._log.failure("sweep crashed, next one runs as planned")
            return
        if swept.bytes:
            self._log.info(
                "sweep finished", blobs=swept.blobs, partial_files=swept.partials, bytes=swept.bytes
            )

    async def _sweep_by_age(self, now: float, usage: StoreUsage, tally: _Tally) -> None:
        if self._retention.now.blobttl is None:
            return
        oldest = now - self._retention.now.blobttl
        partials = usage.partials if self._monotonic() >= self._partials_from else ()
        expired = tuple(partial for partial in partials if partial.since < oldest)
        async for candidate in self.inventory.oldest(expired, before=oldest):
            await self._evict(candidate, "age", tally)
            if self._stopping:
                break

    async def _sweep_by_size(self, tally: _Tally) -> None:
        while await self._sweep_batch_by_size(tally):
            pass

    async def _sweep_batch_by_size(self, tally: _Tally) -> bool:
        """Evict a batch of what is too much; returns whether there is more to do, and this one helped."""
        # The lock is held for one batch: a download that reserves room must not wait for the whole sweep.
        async with locked(self._lock):
            usage = await self._count()
            start = tally.bytes
            need = start + shortfall(self._retention.now, usage.stored, None).size
            if need == start:
                return False
            tried = 0
            async for candidate in self.inventory.oldest(usage.partials):
                if tally.bytes >= need or tried == _BATCH or self._stopping:
                    break
                await self._evict(candidate, "size", tally)
                tried += 1
            return start < tally.bytes < need and not self._stopping

    async def _sweep_by_space(self, usage: StoreUsage, tally: _Tally) -> None:
        need = shortfall(self._retention.now, 0, usage.free).space - tally.bytes
        if need > 0:
            async with locked(self._lock):
                usage = await self._count()
                for candidate in await self._choose(usage, need) or ():
                    await self._evict(candidate, "space", tally)

    async def _purge(self, now: float) -> int:
        purged = 0
        while not self._stopping:
            batch = await self._run(self._index.purge, now - self._retention.now.purge_after, _BATCH)
            purged += batch
            if not batch:
                break
        return purged

    async def _fit(self, tally: _Tally) -> str | None:
        usage = await self._count()
        short = shortfall(self._retention.now, usage.stored, usage.free)
        # More than one round only if what was chosen was pulled before it was deleted.
        for _round in range(_ROUNDS):
            lacking = short.lacking(tally.bytes)
            if lacking is None:
                return None
            chosen = await self._choose(usage, short.worst - tally.bytes)
            if chosen is None:
                return lacking
            for candidate in chosen:
                await self._evict(candidate, _reason(short, tally.bytes), tally)
            usage = await self._count()
        return short.lacking(tally.bytes)

    async def _choose(self, usage: StoreUsage, need: int) -> list[Candidate] | None:
        """The oldest files that make up ``need`` bytes, ``None`` if there are not enough."""
        if need > usage.stored:
            return None
        candidates: list[Candidate] = []
        found = 0
        async for candidate in self.inventory.oldest(usage.partials):
            candidates.append(candidate)
            found += candidate.size
            if found >= need:
                break
        return oldest_first(candidates, need)

    async def _evict(self, candidate: Candidate, reason: Reason, tally: _Tally) -> None:
        digest = candidate.digest
        if self._stopping or self._in_use(digest) or digest in self._evicting:
            return
        self._evicting.add(digest)
        try:
            names = await self._run(self._delete, candidate)
        except OSError as error:
            tally.failures += 1
            self._log.warn("stored blob not deleted", digest=digest, reason=error)
            if error.errno == errno.EROFS or tally.failures == _MOST_FAILURES:
                raise
            return
        finally:
            self._evicting.discard(digest)
        if names is not None:
            if self._in_use(digest):
                # Opened after the last look and before the deletion: its bytes are freed when it is closed.
                self._still_open[digest] = candidate.size
            else:
                tally.bytes += candidate.size
            tally.partials += candidate.partial
            tally.blobs += not candidate.partial
            if not candidate.partial:
                self._evicted(digest, candidate.size, reason, names)

    def _delete(self, candidate: Candidate) -> BlobNames | None:
        """In a thread: delete a file, unless it was pulled since it was chosen; the names that the blob had."""
        if candidate.partial:
            self._store.delete_partial(candidate.digest, candidate.tag)
            return BlobNames()
        record = self._index.blob(candidate.digest)
        if record is None or record.pulled > candidate.since:
            return None
        names = self._index.names(candidate.digest)
        # The file first: if killed in between, a record without a file is left, which the next sweep forgets. The
        # other way round a file would be left that no sweep ever finds. And on a full disk the index may need
        # the space of the file.
        self._store.delete(candidate.digest)
        self._index.forget((candidate.digest,))
        return names

    async def _count(self) -> StoreUsage:
        """How much there is, with files that are deleted and still open."""
        usage = await self.inventory.usage(self._reserved.values())
        self._still_open = {digest: size for digest, size in self._still_open.items() if self._in_use(digest)}
        return evolve(usage, stored=usage.stored + sum(self._still_open.values()))


def _unless_cancelled(failure: Failure) -> Failure | None:
    return None if isinstance(failure.value, CancelledError) else failure


def _reason(short: Shortfall, freed: int) -> Reason:
    return "size" if short.size > freed and short.size >= short.space else "space"
