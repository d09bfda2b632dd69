"""Who takes away what nobody pulls any more, and makes room for what comes."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, Literal, cast

from attrs import define, evolve, frozen
from twisted.internet.defer import CancelledError, Deferred, DeferredLock, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from contentcache.core.digest import Digest
from contentcache.core.eviction import Candidate, Retention, Shortfall, clock_jump, oldest_first, shortfall
from contentcache.core.ports import Clock, Run, Timer
from contentcache.storage.interfaces import Index, IndexDamaged, Reservation, Store
from contentcache.storage.inventory import Inventory, Usage

Reason = Literal["age", "size", "space"]

_BATCH: Final = 200
_ROUNDS: Final = 3
_MOST_FAILURES: Final = 100


@frozen
class Swept:
    """
    What a sweep did: ``rebased`` after a jump of the clock, else blobs, partial files and links that
    went, and the bytes of the files.
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
    Keeps the store within what ``retention`` says.

    The order comes from the index, a batch at a time, so a sweep costs what it deletes. Decisions
    and callbacks are in the reactor's thread, the disk is touched by ``run`` only.

    ``in_use`` says whether a reader or a fetch has a digest, or a pull of it is not in the index yet:
    such a file never goes. ``evicted`` hears of each blob that went; partial files are only counted.
    """

    _log = Logger()

    def __init__(
        self,
        store: Store,
        index: Index,
        retention: Retention,
        *,
        in_use: Callable[[Digest], bool],
        run: Run,
        wall: Clock,
        monotonic: Clock,
        evicted: Callable[[Digest, int, Reason], None],
    ) -> None:
        self._store = store
        self._index = index
        self._retention = retention
        self._in_use = in_use
        self._run = run
        self._wall = wall
        self._monotonic = monotonic
        self._evicted = evicted
        self._inventory = Inventory(store, index, run, in_use)
        self._seen = (wall(), monotonic())
        self._partials_from = self._seen[1]
        self._turn = DeferredLock()
        self._going: set[Digest] = set()
        self._reserved: dict[str, Reservation] = {}
        #: Bytes of files that were opened while they were being deleted.
        self._still_open: dict[Digest, int] = {}
        self._first: Deferred[None] = succeed(None)
        self._loop: LoopingCall | None = None
        self._ended: Deferred[object] = succeed(None)
        self._stopping = False

    def start(self, timer: Timer) -> None:
        """Sweep from time to time, the first time after ``retention.first_sweep()`` seconds."""
        loop = LoopingCall(lambda: Deferred.fromCoroutine(self._sweep_whatever_happens()))
        loop.clock = clock = cast("IReactorTime", timer)
        self._loop = loop
        self._stopping = False
        self._first = deferLater(clock, self._retention.first_sweep())
        self._ended = self._first.addCallback(lambda _: loop.start(self._retention.sweepinterval))
        self._ended.addErrback(_unless_cancelled)

    def stop(self) -> Deferred[object]:
        """Sweep no more. Fires when a sweep that is under way has put down what it had in hand."""
        self._stopping = True
        if self._loop is not None and self._loop.running:
            self._loop.stop()
        else:
            self._first.cancel()
        return self._ended

    async def sweep(self) -> Swept:
        """
        Take away what is too old, then what is too much, then links that are of no more use.

        :raises OSError: the disk does not work.
        """
        now, mono = self._wall(), self._monotonic()
        jump = clock_jump(*self._seen, now, mono)
        try:
            await self._run(self._index.shift, jump, now)  # without a jump: pulls in the future count as now
            self._seen = (now, mono)  # not before: an index that failed must be told of the jump again
        except OSError as error:
            if jump:
                raise
            # A full disk, which only a sweep can make less full: nothing else depends on this.
            self._log.warn("last pulls not corrected", reason=error)
        if jump:
            # The index moves along with the clock, the dates of files cannot: from now on partial
            # files must lie idle for a whole ``blobttl`` before their age counts again.
            self._partials_from = mono + (self._retention.blobttl or 0.0)
            self._log.warn("clock jumped, nothing deleted by this sweep", jump=f"{jump:.0f}s")
            return Swept(rebased=True)
        tally = _Tally()
        # Measured before anything goes: some filesystems free the room of deleted files much later,
        # and to look again would delete for the same bytes twice.
        stock = await self._count()
        await self._sweep_by_age(now, stock, tally)
        await self._sweep_by_size(tally)
        await self._sweep_by_space(stock, tally)
        links = await self._purge(now)
        return Swept(False, tally.blobs, tally.partials, links, tally.bytes)

    async def reserve(self, wanted: Reservation) -> bool:
        """
        Reserve room for a download (:class:`~contentcache.storage.interfaces.Room`).

        Nothing is evicted where it would not be enough. A disk that fails is an answer too: ``False``.
        """
        async with self._my_turn():
            before = self._reserved.get(wanted.key)
            if before is not None and before.size >= wanted.size:
                return True
            self._reserved[wanted.key] = wanted
            fits = False
            try:
                fits = await self._fit(0, _Tally())
            except (OSError, IndexDamaged) as error:
                self._log.error("no space freed", bytes=wanted.size, reason=error)
            finally:
                # It may have been released meanwhile; and what does not fit is not reserved.
                if wanted.key not in self._reserved:
                    fits = False
                elif not fits and before is not None:
                    self._reserved[wanted.key] = before
                elif not fits:
                    del self._reserved[wanted.key]
            return fits

    def shrink(self, key: str, size: int, *, unlinked: bool) -> None:
        """Reserve no more than this from now on; nothing happens if there is no reservation."""
        before = self._reserved.get(key)
        if before is not None:
            self._reserved[key] = evolve(before, size=min(size, before.size), unlinked=unlinked)

    def release(self, key: str) -> None:
        """Give up a reservation; nothing happens if there is none."""
        self._reserved.pop(key, None)

    def release_all(self, prefix: str) -> None:
        """Give up the reservations whose keys begin with ``prefix``: a worker is gone."""
        for key in [key for key in self._reserved if key.startswith(prefix)]:
            del self._reserved[key]

    async def make_room(self, incoming: int) -> bool:
        """
        Evict what was least recently pulled, so that ``incoming`` bytes fit; ``False`` if they cannot.

        Nothing goes where it would not be enough. A disk that fails is an answer too: ``False``.
        """
        async with self._my_turn():
            try:
                return await self._fit(incoming, _Tally())
            except (OSError, IndexDamaged) as error:
                self._log.error("no space freed", bytes=incoming, reason=error)
                return False

    async def _sweep_whatever_happens(self) -> None:
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

    async def _sweep_by_age(self, now: float, stock: Usage, tally: _Tally) -> None:
        if self._retention.blobttl is None:
            return
        oldest = now - self._retention.blobttl
        partials = stock.partials if self._monotonic() >= self._partials_from else ()
        expired = tuple(partial for partial in partials if partial.since < oldest)
        async for candidate in self._inventory.oldest(expired, before=oldest):
            await self._evict(candidate, "age", tally)
            if self._stopping:
                break

    async def _sweep_by_size(self, tally: _Tally) -> None:
        while await self._cut_down(tally):
            pass

    async def _cut_down(self, tally: _Tally) -> bool:
        """Evict a batch of what is too much; whether there is more to do, and any use in it."""
        # A batch to a turn: a fetch that asks for room must not wait for a whole disk to be cleared.
        async with self._my_turn():
            stock = await self._count()
            start = tally.bytes
            need = start + shortfall(self._retention, stock.stored, None, 0).size
            if need == start:
                return False
            tried = 0
            async for candidate in self._inventory.oldest(stock.partials):
                if tally.bytes >= need or tried == _BATCH or self._stopping:
                    break
                await self._evict(candidate, "size", tally)
                tried += 1
            return start < tally.bytes < need and not self._stopping

    async def _sweep_by_space(self, stock: Usage, tally: _Tally) -> None:
        need = shortfall(self._retention, 0, stock.free, 0).space - tally.bytes
        if need > 0:
            async with self._my_turn():
                stock = await self._count()
                for candidate in await self._choose(stock, need) or ():
                    await self._evict(candidate, "space", tally)

    async def _purge(self, now: float) -> int:
        gone = 0
        while not self._stopping:
            batch = await self._run(self._index.purge, now - self._retention.purge_after, _BATCH)
            gone += batch
            if not batch:
                break
        return gone

    async def _fit(self, incoming: int, tally: _Tally) -> bool:
        stock = await self._count()
        short = shortfall(self._retention, stock.stored, stock.free, incoming)
        # More than one round only if what was chosen was pulled before its turn came.
        for _round in range(_ROUNDS):
            if tally.bytes >= short.worst:
                return True
            chosen = await self._choose(stock, short.worst - tally.bytes)
            if chosen is None:
                return False
            for candidate in chosen:
                await self._evict(candidate, _reason(short, tally.bytes), tally)
            stock = await self._count()
        return tally.bytes >= short.worst

    async def _choose(self, stock: Usage, need: int) -> list[Candidate] | None:
        """The oldest files that make up ``need`` bytes, ``None`` if there are not enough."""
        if need > stock.stored:
            return None
        candidates: list[Candidate] = []
        found = 0
        async for candidate in self._inventory.oldest(stock.partials):
            candidates.append(candidate)
            found += candidate.size
            if found >= need:
                break
        return oldest_first(candidates, need)

    async def _evict(self, candidate: Candidate, reason: Reason, tally: _Tally) -> None:
        digest = candidate.digest
        if self._stopping or self._in_use(digest) or digest in self._going:
            return
        self._going.add(digest)
        try:
            gone = await self._run(self._take_away, candidate)
        except OSError as error:
            tally.failures += 1
            self._log.warn("stored blob not deleted", digest=digest, reason=error)
            if error.errno == errno.EROFS or tally.failures == _MOST_FAILURES:
                raise
            return
        finally:
            self._going.discard(digest)
        if gone:
            if self._in_use(digest):
                # Opened after the last look and before the deletion: nothing is freed before it is closed.
                self._still_open[digest] = candidate.size
            else:
                tally.bytes += candidate.size
            tally.partials += candidate.partial
            tally.blobs += not candidate.partial
            if not candidate.partial:
                self._evicted(digest, candidate.size, reason)

    def _take_away(self, candidate: Candidate) -> bool:
        """In a thread: delete a file, unless it was pulled since it was chosen."""
        if candidate.partial:
            self._store.delete_partial(candidate.digest, candidate.tag)
            return True
        record = self._index.blob(candidate.digest)
        if record is None or record.pulled > candidate.since:
            return False
        # The file first. Killed in between, a record without a file is left: it opens nothing, and the
        # next sweep forgets it. The other way round a file would be left that no sweep ever meets.
        # And on a full disk the index may need the room that the file gives back.
        self._store.delete(candidate.digest)
        self._index.forget((candidate.digest,))
        return True

    async def _count(self) -> Usage:
        """What there is, files that are deleted and still open among it."""
        stock = await self._inventory.stock(self._reserved.values())
        self._still_open = {digest: size for digest, size in self._still_open.items() if self._in_use(digest)}
        return evolve(stock, stored=stock.stored + sum(self._still_open.values()))

    @asynccontextmanager
    async def _my_turn(self) -> AsyncIterator[None]:
        """Two that count the same bytes as free at the same time would both be wrong."""
        await self._turn.acquire()
        try:
            yield
        finally:
            self._turn.release()


def _unless_cancelled(failure: Failure) -> Failure | None:
    return None if isinstance(failure.value, CancelledError) else failure


def _reason(short: Shortfall, gone: int) -> Reason:
    return "size" if short.size > gone and short.size >= short.space else "space"
