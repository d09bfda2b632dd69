"""
Bytes from upstream into the partial file, hashed as its contiguous prefix grows.

What is written and how far it is hashed is the business of
:class:`contentcache.delivery.hashed_file.HashedFile`: one writer at a time. It stays in its thread while more
comes in, and leaves word of how far it is, which is looked at with the next bytes that arrive: so neither
waits for the other. What has come in and is not written yet is bounded: beyond :data:`MOST_QUEUED` bytes
upstream is paused, so that a slow disk slows the line and fills no memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from contentcache.aio.condition import Condition
from contentcache.aio.tasks import in_background
from contentcache.core.digest import Digest
from contentcache.core.errors import DiskFailed, UpstreamBroken
from contentcache.core.ports import Given, Result, Run
from contentcache.delivery.hashed_file import HashedFile
from contentcache.storage.interfaces import PartialFile
from contentcache.upstream.answers import Answer, Inflow

MOST_QUEUED: Final = 4 << 20
_FEW_QUEUED: Final = 1 << 20
#: After so many bytes a thread is free for others.
_LONGEST_STAY: Final = 16 << 20


#: Reserves room for a body of unknown length as its bytes come.
Reserve = Callable[[int], Awaitable[int | None]]


class TooLong(UpstreamBroken):
    """Upstream sends more than the content has."""


class Enough(Exception):  # nothing is wrong
    """Whoever hears what arrives wants no more of this body."""


class DownloadFile:
    """
    One partial file, its hash, and what is on its way into it.

    Offsets are bytes from the start of the content.
    """

    def __init__(self, digest: Digest, run: Run) -> None:
        self._file: PartialFile | None = None
        self._hashed_file: HashedFile | None = None
        self._digest = digest
        self._run = run
        self._following: Deferred[None] | None = None
        self._settling = False
        self._transfers: set[_Transfer] = set()

    @property
    def file(self) -> PartialFile:
        """Where the bytes are. There is one as soon as a client may be answered."""
        if self._file is None:
            raise RuntimeError("the fetch has not begun")
        return self._file

    @property
    def has_file(self) -> bool:
        """Whether the fetch has begun."""
        return self._file is not None

    def close(self) -> None:
        """Nobody reads or writes any more."""
        if self._file is not None:
            self._file.close()

    def open(self, file: PartialFile, spans: Sequence[tuple[int, int]]) -> None:
        """Begin with ``file``, of which ``spans`` are written."""
        self._file = file
        self._hashed_file = HashedFile(file, self._digest, spans)
        self.hash_in_background()

    async def restart(self) -> None:
        """
        Begin again with an empty file, after :meth:`wait_idle`.

        :raises DiskFailed: it cannot be cut.
        """
        if self._transfers or self._following is not None:
            raise RuntimeError("a body is still on its way into the file")
        await self._in_thread(self._hashing.restart)
        self._settling = False

    def hash_in_background(self) -> None:
        """Hash in the background what is written and not hashed yet of the prefix."""
        if self._is_behind and self._following is None and not self._settling:
            following = in_background(self._follow())
            self._following = None if following.called else following

    async def matches_digest(self, size: int) -> bool:
        """
        Whether the digest is that of all ``size`` bytes in the file.

        :raises DiskFailed: they cannot be read.
        """
        await self._until_followed()
        while self._is_behind:
            await self._in_thread(self._hashing.hash_more)
        return await self._run(self._hashing.matches_digest, size)

    async def wait_idle(self) -> None:
        """Wait until no thread works on the file any more."""
        self._settling = True
        await self._until_followed()

    async def receive(  # noqa: PLR0917  # what a body is, and what is told of it
        self,
        answer: Answer,
        start: int,
        wanted: int,
        most: int | None,
        arrived: Callable[[int, int], None],
        reserve: Reserve | None = None,
    ) -> None:
        """
        Take the body of ``answer``, which begins at byte ``start``, from byte ``wanted`` on.

        ``arrived(start, stop)`` is called as bytes are in the file; it may raise :class:`Enough`, which ends
        this body alone. Several may run at once, over different bytes.

        :param most: the byte before which the body must end.
        :param reserve: ``await reserve(stop)`` reserves room for the bytes before ``stop`` at least, and says
            before which byte all have room (``None``: all there will be). Nothing is written beyond that.
        :raises Enough: as ``arrived`` does.
        :raises TooLong: it does not.
        :raises UpstreamBroken: the body is cut short.
        :raises UpstreamTimeout: it stalls.
        :raises DiskFailed: the file takes no more, or there is no room for more.
        """
        if most is not None and wanted >= most:
            answer.abandon()  # everything is here already, and nobody had said so
            return
        transfer = _Transfer(start, wanted, most, arrived, reserve)
        self._transfers.add(transfer)
        try:
            await transfer.run(answer, self._put)
        finally:
            self._transfers.discard(transfer)

    def abandon_bodies(self) -> None:
        """Want no more of what is coming in."""
        for transfer in tuple(self._transfers):
            transfer.abandon()

    async def _put(self, transfer: _Transfer) -> None:
        await self._in_thread(self._write, transfer)

    def _write(self, transfer: _Transfer) -> None:
        """In a thread: write and hash what is queued, and what comes meanwhile."""
        enough = transfer.written + _LONGEST_STAY
        while transfer.written < enough and (data := transfer.next()) is not None:
            self._hashing.write(transfer.written, data)
            transfer.written += len(data)

    @property
    def _hashing(self) -> HashedFile:
        if self._hashed_file is None:
            raise RuntimeError("the fetch has not begun")
        return self._hashed_file

    @property
    def _is_behind(self) -> bool:
        return self._hashing.hashed < self._hashing.prefix

    async def _until_followed(self) -> None:
        if self._following is not None:
            waiting: Deferred[None] = Deferred()
            self._following.addCallback(waiting.callback)
            await waiting

    async def _follow(self) -> None:
        try:
            while self._is_behind and not self._settling:
                await self._in_thread(self._hashing.hash_more)
        except DiskFailed:
            pass  # is_right() meets it again, and tells
        finally:
            self._following = None

    async def _in_thread(
        self, function: Callable[Given, Result], *args: Given.args, **kwargs: Given.kwargs
    ) -> Result:
        try:
            return await self._run(function, *args, **kwargs)
        except OSError as error:
            raise DiskFailed(f"the store cannot be written or read: {error}") from error


class _Transfer:
    """
    One body on its way into the file. ``written`` is the byte before which all of it is there.

    Of what is here a thread touches :meth:`next` and ``written`` only.
    """

    def __init__(
        self,
        start: int,
        wanted: int,
        most: int | None,
        arrived: Callable[[int, int], None],
        reserve: Reserve | None,
    ) -> None:
        self.written = wanted
        self._reserve = reserve
        self._reserved: int | None = None
        self._position = start
        self._wanted = wanted
        self._most = most
        self._arrived = arrived
        self._queue: deque[bytes] = deque()
        self._queued = wanted  # up to here
        self._told = wanted
        self._is_full = False
        self._condition = Condition()
        self._outcome: list[Failure | None] = []
        self._error: Exception | None = None
        self._inflow: Inflow | None = None
        self._abandoned = False

    def next(self) -> bytes | None:
        """
        The next bytes to write, ``None`` where there are none, upstream had better be resumed first, or room
        must be reserved first.
        """
        if self._is_full and self._queued - self.written < _FEW_QUEUED:
            return None
        try:
            if self._reserved is not None and self.written + len(self._queue[0]) > self._reserved:
                return None
            return self._queue.popleft()
        except IndexError:
            return None

    async def run(self, answer: Answer, put: Callable[[_Transfer], Awaitable[None]]) -> None:
        inflow = self._inflow = answer.stream(self._received)
        inflow.ended.addBoth(self._ended)
        if self._abandoned:
            inflow.abandon()
        try:
            await self._drain(inflow, put)
        finally:
            self._queue.clear()
            inflow.abandon()
        if self._most is not None and self._position > self._most:
            raise TooLong(f"upstream sends more than the {self._most} bytes that were to come")
        if isinstance(self._outcome[0], Failure):
            self._outcome[0].raiseException()

    def abandon(self) -> None:
        self._abandoned = True
        if self._inflow is not None:
            self._inflow.abandon()

    def _received(self, inflow: Inflow, data: bytes) -> None:
        self._position += len(data)
        if self._most is not None and self._position > self._most:
            inflow.abandon()
            return
        fresh = self._position - max(self._wanted, self._position - len(data))
        if fresh <= 0:
            return
        self._queue.append(data[len(data) - fresh :])
        self._queued += fresh
        if self._queued - self.written > MOST_QUEUED:
            self._is_full = True
            inflow.pause()
        self._condition.notify_all()
        try:
            self._tell()
        except Exception as error:  # noqa: BLE001  # it is for who waits in run()
            self._error = error
            self._queue.clear()
            inflow.abandon()

    def _ended(self, result: Failure | None) -> None:
        self._outcome.append(result)
        self._condition.notify_all()

    def _tell(self) -> None:
        """Say how far it is."""
        start, stop = self._told, self.written
        if start < stop:
            self._told = stop
            self._arrived(start, stop)

    async def _drain(self, inflow: Inflow, put: Callable[[_Transfer], Awaitable[None]]) -> None:
        while self._error is None:
            if self._queue:
                if self._reserve is not None:
                    self._reserved = await self._reserve(self.written + len(self._queue[0]))
                await put(self)
                self._tell()
                if self._is_full and self._queued - self.written < _FEW_QUEUED:
                    self._is_full = False
                    inflow.resume()
            elif self._outcome:
                return
            else:
                await self._condition.wait()
        raise self._error
