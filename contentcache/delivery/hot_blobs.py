"""
The hot blob cache: blobs that were served lately are kept open, for the fast path.

Authorization is the same as for any other request, by a grant and a link, but from memory alone. Where memory does
not tell, there is no answer here, and the request is answered by :mod:`contentcache.delivery.blob_service`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Final, TypeAlias

from attrs import define

from contentcache.aio.tasks import in_background
from contentcache.core.credentials import Subject
from contentcache.core.digest import Digest
from contentcache.core.lru import LruCache
from contentcache.core.ports import Run
from contentcache.delivery.authorization import Authorization
from contentcache.delivery.blob_usage import BlobUsage
from contentcache.storage.interfaces import BlobFile, Link

#: Most bytes of a blob, or of a part of one, that the fast path sends.
LARGEST: Final = 256 << 10
#: Blobs of at most this many bytes are kept in memory.
_TINY: Final = 4 << 10

#: Whether a client may have a content, by what is in memory; ``False`` too where memory does not tell.
IsAuthorized: TypeAlias = Callable[[Link], bool]


@define(eq=False)
class HotBlob:
    """
    A verified blob in an open file of its own. ``size`` is in bytes; ``written`` is the file's time;
    ``origins`` are those in whose name it may be served: each has delivered it, or proved that it has it.
    """

    digest: Digest
    descriptor: int
    size: int
    written: int
    origins: set[str]
    readers: int = 0
    dropped: bool = False
    _body: bytes | None = None

    def is_there(self) -> bool:
        """
        Whether the file still has its name and has not been written. Never waits: an open file's inode is in
        memory.
        """
        now = os.fstat(self.descriptor)
        return now.st_nlink > 0 and now.st_size == self.size and now.st_mtime_ns == self.written

    def read_now(self, start: int, stop: int) -> bytes | None:
        """
        The bytes from ``start`` up to ``stop``, ``None`` where that would mean to wait for a disk, or nobody
        can tell.
        """
        if self._body is not None:
            return self._body[start:stop]
        if self.size <= _TINY:
            buffer = bytearray(self.size)
            if not self._peek(buffer, 0):
                return None
            self._body = bytes(buffer)
            return self._body[start:stop]
        buffer = bytearray(stop - start)
        return bytes(buffer) if self._peek(buffer, start) else None

    def is_in_memory(self, start: int, stop: int) -> bool:
        """
        Whether the first and the last page of at most :data:`LARGEST` bytes are, which is good enough: pages
        so few come and go together.
        """
        return (not start or self._peek(bytearray(1), start)) and self._peek(bytearray(1), stop - 1)

    def _peek(self, buffer: bytearray, offset: int) -> bool:
        try:
            return os.preadv(self.descriptor, [buffer], offset, os.RWF_NOWAIT) == len(buffer)
        except (OSError, AttributeError):  # tmpfs, other systems
            return False


class HotBlobs:
    """An LRU cache of at most ``most`` blobs."""

    def __init__(self, authorization: Authorization, usage: BlobUsage, run: Run, most: int) -> None:
        self._authorization = authorization
        self._usage = usage
        self._run = run
        self._blobs: LruCache[Digest, HotBlob] = LruCache(
            most, lambda _digest, hot_blob: self._drop(hot_blob)
        )

    def __len__(self) -> int:
        return len(self._blobs)

    def authorizer(self, subject: Subject) -> IsAuthorized:
        """The check whether a subject may have contents of its repository."""
        if subject.credential.locally_authorized:
            return self._authorization.allows_locally_authorized
        return partial(self._authorization.allows_in_memory, subject.key)

    @property
    def signed_authorizer(self) -> IsAuthorized:
        """The same for a signed URL that has been verified for just this content."""
        return self._authorization.allows_signed

    def add(self, digest: Digest, file: BlobFile, origin: str) -> None:
        """Add a stored blob that is being served in the name of ``origin``, which has it."""
        known = self._blobs.peek(digest)
        if known is not None:
            known.origins.add(origin)
            return
        descriptor = file.descriptor
        if descriptor is None or not file.size or not self._blobs.capacity:
            return
        try:
            own = os.dup(descriptor)
        except OSError:
            return  # too many open files: the long way does without
        with ExitStack() as held:
            held.callback(os.close, own)
            found = os.fstat(own)
            self._blobs.put(digest, HotBlob(digest, own, file.size, found.st_mtime_ns, {origin}))
            held.pop_all()

    def find(self, link: Link, is_authorized: IsAuthorized) -> HotBlob | None:
        """
        The blob, if whoever has this ``way`` may have it, by what is in memory.

        To be used at once, and only if it :meth:`HotBlob.is_there`: it may be closed later.
        """
        hot_blob = self._blobs.peek(link.digest)
        if hot_blob is None or link.origin not in hot_blob.origins or not is_authorized(link):
            return None
        self._blobs.touch(link.digest)
        return hot_blob

    def record_pull(self, hot_blob: HotBlob, now: float) -> None:
        """Record that it was sent, ``now`` in seconds since the epoch."""
        self._usage.record_pull_at(hot_blob.digest, now)

    def acquire(self, hot_blob: HotBlob) -> None:
        """Keep it open for a slow client, until :meth:`release`."""
        self._usage.acquire(hot_blob.digest)  # first: if it raises, nothing is owed
        hot_blob.readers += 1

    def release(self, hot_blob: HotBlob) -> None:
        """A slow client is served, or has disconnected."""
        hot_blob.readers -= 1
        try:
            self._usage.release(hot_blob.digest)
        finally:
            if hot_blob.dropped and not hot_blob.readers:
                in_background(self._close(hot_blob))

    def drop(self, digest: Digest) -> None:
        """Remove a blob that is being deleted, and close it once no client reads it."""
        hot_blob = self._blobs.remove(digest)
        if hot_blob is not None:
            self._drop(hot_blob)

    def _drop(self, hot_blob: HotBlob) -> None:
        hot_blob.dropped = True
        if not hot_blob.readers:
            # The last one to close a deleted file waits for its blocks to be freed.
            in_background(self._close(hot_blob))

    def drop_deleted(self) -> None:
        """Close blobs that were deleted from the store, so that their space is free."""
        for digest in tuple(self._blobs):
            hot_blob = self._blobs.peek(digest)
            if hot_blob is not None and not hot_blob.is_there():
                self.drop(digest)

    def close(self) -> None:
        """Remove all blobs."""
        for digest in tuple(self._blobs):
            self.drop(digest)

    async def _close(self, hot_blob: HotBlob) -> None:
        await self._run(os.close, hot_blob.descriptor)
