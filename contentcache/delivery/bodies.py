"""Response bodies: stored, in memory, or read from the file of a running download."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from typing import Final, Protocol

from attrs import frozen

from contentcache.core.digest import Hasher
from contentcache.core.errors import CacheError, DiskFailed
from contentcache.core.ports import Run
from contentcache.delivery.shared_download import OwnerUnreachableError, SharedDownload, StoredMeanwhile
from contentcache.storage.interfaces import BlobFile

#: Bytes of a body in memory for a slow client.
PIECE: Final = 64 << 10
#: Bytes that are sent straight from the file at once, without memory here.
_FILE_PIECE: Final = 1 << 20
#: Fewer bytes are not worth a thread of the sendfile pool.
_MIN_POOLED: Final = 4 << 20


class ShortError(CacheError):
    """A response must end short: its rest is missing, or must not be sent."""

    code = "UNAVAILABLE"
    status = 502


class DiskReadError(ShortError):
    """A stored blob or a partial file cannot be read."""

    ended_by = "disk"


class ClientSink(Protocol):
    """Where the bytes of a response are sent: one client."""

    async def ready(self) -> None:
        """Wait until the client reads more. Cancelled when it disconnects."""

    def write(self, data: bytes, /) -> None:
        """Send."""

    def can_send_files(self) -> bool:
        """Whether :meth:`send_file` works."""

    async def send_file(self, descriptor: int, start: int, stop: int) -> int:
        """Send from an open file whose pages are in memory; returns how many bytes were sent."""

    async def send_by_pool(self, descriptor: int, start: int, stop: int) -> int:
        """
        Send much from an open file in a thread; returns how many bytes were sent: 0 where no thread is free or
        the client is not fast.
        """


class Body(Protocol):
    """
    A content that can be sent. ``size`` is its length in bytes, ``None`` while nobody knows; ``is_stored`` says
    whether it is in the store by now.
    """

    @property
    def size(self) -> int | None: ...
    @property
    def is_stored(self) -> bool: ...

    async def send(self, sink: ClientSink, start: int, stop: int | None, *, small_part: bool = False) -> None:
        """
        Send the bytes from ``start`` up to ``stop``, ``None`` for the end. With ``small_part`` they are a small
        part of the content, whose end need not wait for the whole.

        :raises CacheError: some are missing, or have a digest mismatch: the response ends short.
        """

    def close(self) -> None:
        """Release what it holds. May be called twice."""


class StoredBody:
    """A verified blob of the store."""

    is_stored = True

    def __init__(self, file: BlobFile, run: Run, closed: Callable[[], None]) -> None:
        self._file = file
        self._run = run
        # Each is called even if the other one fails; the last one first.
        self._held = ExitStack()
        self._held.callback(closed)
        self._held.callback(file.close)

    @property
    def size(self) -> int:
        """Its length in bytes."""
        return self._file.size

    async def send(self, sink: ClientSink, start: int, stop: int | None, *, small_part: bool = False) -> None:
        """Send a part; see :class:`Body`."""
        end = self.size if stop is None else stop
        while start < end:
            await sink.ready()
            sent = await send_piece(sink, self._file, start, end, self._run, by_pool=True)
            if not sent:
                raise DiskReadError("the stored file is shorter than it was")
            start += sent

    def close(self) -> None:
        """Close the file."""
        self._held.close()


class MemoryBody:
    """A small content that was received whole."""

    is_stored = False

    def __init__(self, content: bytes) -> None:
        self._content = content

    @property
    def size(self) -> int:
        """Its length in bytes."""
        return len(self._content)

    async def send(self, sink: ClientSink, start: int, stop: int | None, *, small_part: bool = False) -> None:
        """Send a part; see :class:`Body`."""
        end = len(self._content) if stop is None else stop
        for position in range(start, end, PIECE):
            await sink.ready()
            sink.write(self._content[position : min(end, position + PIECE)])

    def close(self) -> None:
        """Nothing is held."""


@frozen
class Remainder:
    """
    What is still to be sent: bytes from ``start`` up to ``stop``, of a response that began at ``first`` and
    has the whole content or only a part; for ``small_part`` see :class:`Body`.
    """

    start: int
    stop: int | None
    of_whole: bool
    first: int
    small_part: bool


#: Failures of a download after which its subscribers get the content by other means.
_NOT_OF_CONTENT: Final = (DiskFailed, StoredMeanwhile, OwnerUnreachableError)

#: Sends the rest by other means. The last argument is called once the download's file is not needed any more, so
#: that a slow client does not keep it on the disk.
Continuation = Callable[[ClientSink, Remainder, Callable[[], None]], Awaitable[None]]


class GrowingBody:
    """
    A content that is being downloaded. Where the disk fails, the download's worker does not answer, or another
    origin's download has stored the blob, ``send_rest`` sends the rest.

    When the download restarts, a response of which nothing was sent yet continues; one that has sent bytes with
    a digest mismatch ends short.
    """

    def __init__(
        self, download: SharedDownload, run: Run, send_rest: Continuation, closed: Callable[[], None]
    ) -> None:
        self._download = download
        self._send_rest = send_rest
        self._run = run
        self._closed: Callable[[], None] | None = closed
        self._generation = download.generation
        self._size = download.size
        self._has_sent = False

    @property
    def size(self) -> int | None:
        """Its length in bytes, if upstream has said it."""
        return self._size

    @property
    def is_stored(self) -> bool:
        """Whether the download has stored it."""
        return self._download.is_stored

    async def send(self, sink: ClientSink, start: int, stop: int | None, *, small_part: bool = False) -> None:
        """Send a part; see :class:`Body`."""
        first, whole = start, start == 0 and stop in {None, self._size}
        while not self._is_done(start, stop):
            await sink.ready()
            if self._must_continue():
                await self._send_rest(sink, Remainder(start, stop, whole, first, small_part), self.close)
                return
            reach = self._reach(start, small_part=small_part)
            end = reach if stop is None else min(reach, stop)
            if end <= start:
                await self._more(start, stop)
                continue
            if not whole and not small_part:
                self._ask_ahead(end, stop)
            self._has_sent = True
            sent = await send_piece(sink, self._download.file, start, end, self._run)
            if not sent or self._download.generation != self._generation:
                raise ShortError("what was downloaded has a digest mismatch")
            start += sent

    async def until_verified(self) -> None:
        """
        Wait for the digest to be compared.

        :raises ShortError: there is a digest mismatch, or the download has failed.
        :raises DiskFailed: the store cannot be written.
        :raises StoredMeanwhile: another download has stored it.
        :raises OwnerUnreachableError: the worker that downloads it does not answer.
        """
        while not self._download.verified:
            if isinstance(self._download.failure, _NOT_OF_CONTENT):
                raise self._download.failure
            self._reach(0)
            await self._more(-1, None)

    def close(self) -> None:
        """Unsubscribe from the download."""
        closed, self._closed = self._closed, None
        if closed is not None:
            closed()

    def _is_done(self, position: int, stop: int | None) -> bool:
        if stop is not None:
            return position >= stop
        return self._download.verified and position >= self._download.readable_until()

    def _must_continue(self) -> bool:
        failure, same = self._download.failure, self._generation == self._download.generation
        if isinstance(failure, StoredMeanwhile):
            return same or not self._has_sent
        return isinstance(failure, DiskFailed | OwnerUnreachableError) and same

    def _reach(self, position: int, *, small_part: bool = False) -> int:
        download = self._download
        if download.generation != self._generation:
            if self._has_sent or (self._size is not None and download.size not in {None, self._size}):
                raise ShortError("what was downloaded has a digest mismatch")
            if download.size is not None:
                self._generation = download.generation
            elif download.failure is None:
                return 0
        return download.readable_until(position, small_part=small_part)

    def _ask_ahead(self, end: int, stop: int | None) -> None:
        # A client that reads a part far away would wait at the end of each segment.
        with suppress(CacheError):
            self._download.request_bytes(end, stop)

    async def _more(self, position: int, stop: int | None) -> None:
        if isinstance(self._download.failure, _NOT_OF_CONTENT):
            return
        if self._download.failure is not None:
            raise ShortError(self._download.failure.message)
        if self._download.verified and position >= self._download.readable_until():
            raise ShortError("the content has fewer bytes")
        notified = self._download.progress.wait()  # first: the request may notify at once
        if position >= 0:
            self._download.request_bytes(position, stop)
        await notified


async def send_piece(
    sink: ClientSink, file: BlobFile, start: int, stop: int, run: Run, *, by_pool: bool = False
) -> int:
    """
    Send some of the bytes from ``start`` up to ``stop`` in the fastest way; returns how many, 0 where the file
    has none. ``by_pool`` allows a thread of the sendfile pool where much is left.

    :raises DiskReadError: the disk fails.
    """
    descriptor = file.descriptor if sink.can_send_files() else None
    if descriptor is None:
        data = await read(file, start, min(PIECE, stop - start), run)
        sink.write(data)
        return len(data)
    end = min(stop, start + _FILE_PIECE)
    if not file.is_loaded(start, end - start):
        # The piece is on the disk: a thread waits for it; it is not checked again.
        await _load(file, start, end - start, run)
    elif by_pool and stop - start >= _MIN_POOLED:
        # Only what is in memory: from the disk a thread is no faster, and there are few.
        sent = await sink.send_by_pool(descriptor, start, stop)
        if sent:
            return sent
    return await sink.send_file(descriptor, start, end)


async def read(file: BlobFile, offset: int, length: int, run: Run) -> bytes:
    """
    Read from memory directly, from the disk in a thread.

    :raises DiskReadError: the disk fails.
    """
    data = file.read_now(offset, length)
    return await read_in_thread(file, offset, length, run) if data is None else data


async def _load(file: BlobFile, offset: int, length: int, run: Run) -> None:
    try:
        await run(file.load, offset, length)
    except OSError as error:
        raise DiskReadError(f"the store cannot be read: {error}") from error


async def read_in_thread(file: BlobFile, offset: int, length: int, run: Run) -> bytes:
    """
    Read where waiting for the disk delays nobody else.

    :raises DiskReadError: the disk fails.
    """
    try:
        return await run(file.read, offset, length)
    except OSError as error:
        raise DiskReadError(f"the store cannot be read: {error}") from error


async def hash_prefix(file: BlobFile, length: int, hasher: Hasher, run: Run) -> None:
    """
    Hash the first ``length`` bytes of a file.

    :raises DiskReadError: the disk fails.
    """
    offset = 0
    while offset < length:
        data = await read(file, offset, min(1 << 20, length - offset), run)
        if not data:
            raise DiskReadError("the file is shorter than it was")
        hasher.update(data)
        offset += len(data)
