"""
Bytes from upstream into the partial file, hashed as its contiguous prefix grows.

One writer at a time. What has come in and is not written yet is bounded: beyond :data:`MOST_QUEUED` bytes
upstream is paused, so that a slow disk slows the line and fills no memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from contentcache.core.digest import Digest, Hasher
from contentcache.core.errors import DiskFailed, UpstreamBroken
from contentcache.core.ports import Run
from contentcache.delivery.tasks import Bell, in_background
from contentcache.storage.interfaces import PartialFile
from contentcache.upstream.answers import Answer, Inflow

MOST_QUEUED: Final = 4 << 20
_FEW_QUEUED: Final = 1 << 20
#: One write, and one piece of what is hashed again.
_PIECE: Final = 1 << 20


class TooLong(UpstreamBroken):
    """Upstream sends more than the content has."""


class Enough(Exception):  # nothing is wrong
    """Whoever hears what arrives wants no more of this body."""


class Intake:
    """
    One partial file, its hash, and what is on its way into it.

    Offsets are bytes from the start of the content.
    """

    def __init__(self, digest: Digest, run: Run) -> None:
        self._file: PartialFile | None = None
        self._digest = digest
        self._run = run
        self._hasher: Hasher = digest.hasher()
        self._hashed = 0
        self._following: Deferred[None] | None = None
        self._prefix = 0
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

    def replace(self, file: PartialFile) -> None:
        """
        Begin, or begin anew, with ``file``.
        """
        self._file = file
        self._hasher = self._digest.hasher()
        self._hashed = self._prefix = 0

    def reaches(self, prefix: int) -> None:
        """
        ``prefix`` bytes are in the file without a gap: hash what of them is not hashed yet.
        """
        self._prefix = prefix
        if self._hashed < prefix and self._following is None:
            self._following = in_background(self._follow())

    async def is_right(self) -> bool:
        """
        Whether the digest is that of all bytes in the file.

        :raises DiskFailed: they cannot be read.
        """
        await self._until_followed()
        while self._hashed < self._prefix:
            await self._hash_more()
        return self._digest.is_of(self._hasher)

    async def settle(self) -> None:
        """
        Wait until no thread works on the file any more.
        """
        self._prefix = 0
        await self._until_followed()

    async def take(
        self, answer: Answer, start: int, wanted: int, most: int | None, arrived: Callable[[int, int], None]
    ) -> None:
        """
        Take the body of ``answer``, which begins at byte ``start``, from byte ``wanted`` on.

        ``arrived(start, stop)`` is called as bytes are in the file; it may raise :class:`Enough`, which ends
        this body alone. Several may run at once, over different bytes.

        :param most: the byte before which the body must end.
        :raises Enough: as ``arrived`` does.
        :raises TooLong: it does not.
        :raises UpstreamBroken: the body is cut short.
        :raises UpstreamTimeout: it stalls.
        :raises DiskFailed: the file takes no more.
        """
        transfer = _Transfer(start, wanted, most)
        self._transfers.add(transfer)
        try:
            await transfer.run(answer, self._put, arrived)
        finally:
            self._transfers.discard(transfer)

    def stop(self) -> None:
        """
        Want no more of what is coming in.
        """
        for transfer in tuple(self._transfers):
            transfer.abandon()

    async def _put(self, offset: int, pieces: Sequence[bytes]) -> None:
        try:
            await self._run(self._write, offset, pieces)
        except OSError as error:
            raise DiskFailed(f"the store cannot be written: {error}") from error

    def _write(self, offset: int, pieces: Sequence[bytes]) -> None:
        for data in pieces:
            self.file.write(offset, data)
            if self._hashed == offset:
                self._hasher.update(data)
                self._hashed = offset + len(data)
            offset += len(data)

    async def _until_followed(self) -> None:
        if self._following is not None:
            waiting: Deferred[None] = Deferred()
            self._following.addCallback(waiting.callback)
            await waiting

    async def _follow(self) -> None:
        try:
            while self._hashed < self._prefix:
                await self._hash_more()
        except DiskFailed:
            pass  # is_right() meets it again, and tells
        finally:
            self._following = None

    async def _hash_more(self) -> None:
        try:
            await self._run(self._hash_piece, min(_PIECE, self._prefix - self._hashed))
        except OSError as error:
            raise DiskFailed(f"the store cannot be read: {error}") from error

    def _hash_piece(self, length: int) -> None:
        data = self.file.read(self._hashed, length)
        if not data:
            raise OSError("the file is shorter than it was")
        self._hasher.update(data)
        self._hashed += len(data)


class _Transfer:
    """
    One body on its way into the file.
    """

    def __init__(self, start: int, wanted: int, most: int | None) -> None:
        self._position = start
        self._wanted = wanted
        self._most = most
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._bell = Bell()
        self._outcome: list[Failure | None] = []
        self._inflow: Inflow | None = None
        self._abandoned = False

    async def run(
        self,
        answer: Answer,
        put: Callable[[int, Sequence[bytes]], Awaitable[None]],
        arrived: Callable[[int, int], None],
    ) -> None:
        inflow = self._inflow = answer.stream(self._received)
        inflow.ended.addBoth(self._ended)
        if self._abandoned:
            inflow.abandon()
        try:
            await self._drain(inflow, put, arrived)
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
        if fresh > 0:
            self._queue.append(data[len(data) - fresh :])
            self._queued += fresh
            if self._queued > MOST_QUEUED:
                inflow.pause()
            self._bell.ring()

    def _ended(self, result: Failure | None) -> None:
        self._outcome.append(result)
        self._bell.ring()

    async def _drain(
        self,
        inflow: Inflow,
        put: Callable[[int, Sequence[bytes]], Awaitable[None]],
        arrived: Callable[[int, int], None],
    ) -> None:
        offset = self._wanted
        while True:
            pieces, size = self._next_pieces()
            if pieces:
                await put(offset, pieces)
                self._queued -= size
                arrived(offset, offset + size)
                offset += size
                if self._queued < _FEW_QUEUED:
                    inflow.resume()
            elif self._outcome:
                return
            else:
                await self._bell.wait()

    def _next_pieces(self) -> tuple[Sequence[bytes], int]:
        pieces: list[bytes] = []
        size = 0
        while self._queue and size < _PIECE:
            pieces.append(self._queue.popleft())
            size += len(pieces[-1])
        return pieces, size
