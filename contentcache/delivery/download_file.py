"""
The file of a download: bodies from upstream are written into it, and its contiguous prefix is hashed.

The stream and the ranges of one download write into one sparse file from several threads. What is written and
how far it is hashed belong together, since a hash that runs past the prefix reads a hole: both have one owner
and one lock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock
from typing import Final

from twisted.internet.defer import Deferred

from contentcache.aio.tasks import in_background
from contentcache.core.digest import Digest, Hasher
from contentcache.core.errors import DiskFailed
from contentcache.core.ports import Given, Result, Run
from contentcache.core.spans import Spans
from contentcache.delivery.body_writer import Arrived, BodyWriter, Reserve
from contentcache.storage.interfaces import PartialFile
from contentcache.upstream.answers import Answer

#: Bytes that are read and hashed at a time.
PIECE: Final = 1 << 20
#: After so many bytes a writing thread is free for others.
_LONGEST_WRITE: Final = 16 << 20


class HashedFile:
    """
    A partial file with its written ``spans`` and its hash.

    Everything blocks and runs in a thread, except :attr:`prefix` and :attr:`hashed`: these may be behind what
    another thread does at that moment, never ahead of it. They show whether there is work, not how much.
    """

    def __init__(self, file: PartialFile, digest: Digest, spans: Sequence[tuple[int, int]]) -> None:
        self._file = file
        self._digest = digest
        self._lock = Lock()
        self._written = Spans()
        for start, stop in spans:
            self._written.add(start, stop)
        self._hasher: Hasher = digest.hasher()
        self._hashed = 0
        self._prefix = self._written.reach(0)

    @property
    def prefix(self) -> int:
        """The number of bytes that are written from the start without a gap."""
        return self._prefix

    @property
    def hashed(self) -> int:
        """The number of bytes that are hashed."""
        return self._hashed

    def write(self, offset: int, data: bytes) -> None:
        """
        Write what is not written yet of ``data``, which belongs at ``offset``; hash it if it is next.

        A byte is written once, whatever another body has in its place: a subscriber may have read it.

        :raises OSError: the disk fails.
        """
        view = memoryview(data)
        with self._lock:
            for start, stop in self._written.missing(offset, offset + len(data)):
                fresh = view[start - offset : stop - offset]
                self._file.write(start, fresh)
                self._written.add(start, stop)
                self._prefix = self._written.reach(0)
                if start == self._hashed:
                    self._hasher.update(fresh)
                    self._hashed = stop

    def hash_more(self) -> None:
        """
        Hash the next piece of the prefix, if any of it is not hashed.

        :raises OSError: the disk fails.
        """
        with self._lock:
            length = min(PIECE, self._prefix - self._hashed)
            if length <= 0:
                return
            data = self._file.read(self._hashed, length)
            if not data:
                raise OSError("the file is shorter than it was")
            self._hasher.update(data)
            self._hashed += len(data)

    def matches_digest(self, size: int) -> bool:
        """
        Whether the digest is that of the ``size`` bytes of the content.

        :raises RuntimeError: those are not the bytes that are written and hashed: a defect of this program.
        """
        with self._lock:
            if not self._hashed == self._prefix == self._written.end() == size:
                raise RuntimeError(f"{self._hashed} of {self._prefix} bytes are hashed, not {size}")
            return self._digest.is_of(self._hasher)

    def restart(self) -> None:
        """
        Truncate the file to nothing, and forget what was written and hashed.

        :raises OSError: the disk fails.
        """
        with self._lock:
            self._file.truncate(0)
            self._written.clear()
            self._hasher = self._digest.hasher()
            self._hashed = self._prefix = 0


class DownloadFile:
    """One partial file, its hash, and the bodies on their way into it. Offsets are bytes of the content."""

    def __init__(self, digest: Digest, run: Run) -> None:
        self._file: PartialFile | None = None
        self._hashed_file: HashedFile | None = None
        self._digest = digest
        self._run = run
        self._hashing_task: Deferred[None] | None = None
        self._is_stopping = False
        self._writers: set[BodyWriter] = set()

    @property
    def file(self) -> PartialFile:
        """Where the bytes are. There is one as soon as a client may be answered."""
        if self._file is None:
            raise RuntimeError("the download has not begun")
        return self._file

    @property
    def has_file(self) -> bool:
        """Whether :meth:`open` was called."""
        return self._file is not None

    def open(self, file: PartialFile, spans: Sequence[tuple[int, int]]) -> None:
        """Begin with ``file``, of which ``spans`` are written."""
        self._file = file
        self._hashed_file = HashedFile(file, self._digest, spans)
        self.hash_in_background()

    def close(self) -> None:
        """Close the file, once nobody reads or writes any more."""
        if self._file is not None:
            self._file.close()

    async def restart(self) -> None:
        """
        Begin again with an empty file, after :meth:`wait_idle`.

        :raises DiskFailed: it cannot be truncated.
        """
        if self._writers or self._hashing_task is not None:
            raise RuntimeError("a body is still on its way into the file")
        await self.in_thread(self._hashed.restart)
        self._is_stopping = False

    async def receive(  # noqa: PLR0917  # a body, and what is called as it arrives
        self,
        answer: Answer,
        start: int,
        wanted: int,
        limit: int | None,
        arrived: Arrived,
        reserve: Reserve | None = None,
    ) -> bool:
        """
        Write the body of ``answer``, which begins at byte ``start``, from byte ``wanted`` on. Several bodies
        may come at once, with different bytes.

        Answers ``False`` if ``arrived`` ended this body because no more of it is wanted. Nothing is written
        for which ``reserve`` has found no room.

        :param limit: the byte before which the body must end.
        :raises BodyTooLong: it does not.
        :raises UpstreamBroken: the body is cut short.
        :raises UpstreamTimeout: it stalls.
        :raises DiskFailed: the file takes no more, or there is no room for more.
        """
        if limit is not None and wanted >= limit:
            answer.abandon()  # every byte is here already, and no upstream had said so
            return True
        writer = BodyWriter(start, wanted, limit, arrived, reserve)
        self._writers.add(writer)
        try:
            return await writer.run(answer, self._write_in_thread)
        finally:
            self._writers.discard(writer)

    def abandon_bodies(self) -> None:
        """Receive no more of what is coming in."""
        for writer in tuple(self._writers):
            writer.abandon()

    def hash_in_background(self) -> None:
        """Hash what is written and not hashed yet of the prefix."""
        if self._is_behind and self._hashing_task is None and not self._is_stopping:
            task = in_background(self._hash())
            self._hashing_task = None if task.called else task

    async def wait_idle(self) -> None:
        """Wait until no thread hashes the file any more."""
        self._is_stopping = True
        await self._wait_hashed()

    async def matches_digest(self, size: int) -> bool:
        """
        Whether the digest is that of all ``size`` bytes in the file.

        :raises DiskFailed: they cannot be read.
        """
        await self._wait_hashed()
        while self._is_behind:
            await self.in_thread(self._hashed.hash_more)
        return await self._run(self._hashed.matches_digest, size)

    async def _write_in_thread(self, writer: BodyWriter) -> None:
        await self.in_thread(self._write, writer)

    def _write(self, writer: BodyWriter) -> None:
        """In a thread: write and hash what is queued, and what is queued meanwhile."""
        limit = writer.written + _LONGEST_WRITE
        while writer.written < limit and (data := writer.next()) is not None:
            self._hashed.write(writer.written, data)
            writer.written += len(data)

    @property
    def _hashed(self) -> HashedFile:
        if self._hashed_file is None:
            raise RuntimeError("the download has not begun")
        return self._hashed_file

    @property
    def _is_behind(self) -> bool:
        return self._hashed.hashed < self._hashed.prefix

    async def _wait_hashed(self) -> None:
        if self._hashing_task is not None:
            waiter: Deferred[None] = Deferred()
            self._hashing_task.addCallback(waiter.callback)
            await waiter

    async def _hash(self) -> None:
        try:
            while self._is_behind and not self._is_stopping:
                await self.in_thread(self._hashed.hash_more)
        except DiskFailed:
            pass  # matches_digest() meets it again, and raises it
        finally:
            self._hashing_task = None

    async def in_thread(
        self, function: Callable[Given, Result], *args: Given.args, **kwargs: Given.kwargs
    ) -> Result:
        """
        What ``function`` returns, which works on the disk.

        :raises DiskFailed: it fails.
        """
        try:
            return await self._run(function, *args, **kwargs)
        except OSError as error:
            raise DiskFailed(f"the store cannot be written or read: {error}") from error
