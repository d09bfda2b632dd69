"""The store in memory: for ``storage: inmemory``, and for tests."""

from __future__ import annotations

import errno
import io
import time
from collections.abc import Iterator, Mapping, Sequence
from threading import RLock
from typing import Final, TypeVar

from contentcache.core.digest import Digest
from contentcache.core.errors import BlobUnknown
from contentcache.core.ports import Clock
from contentcache.storage.interfaces import StoredFile, StoredPartial
from contentcache.storage.partial_files import origin_tag

Name = TypeVar("Name")


class MemoryStore:
    """
    A :class:`~contentcache.storage.interfaces.Store` of at most ``capacity`` bytes.

    As on a disk, a file whose name was deleted takes space until its last reader closes it. ``now`` is the time of
    files in seconds since the epoch.
    """

    def __init__(self, capacity: int | None = None, now: Clock = time.time) -> None:
        self._files = _Filesystem(capacity, now)

    def open(self, digest: Digest) -> MemoryFile:
        """
        A blob of the store.

        :raises BlobUnknown: there is none.
        """
        with self._files.lock:
            return MemoryFile(self._files, self._files.blob(digest))

    def adopt(self, digest: Digest) -> MemoryPartial:
        """
        A blob of the store that is not known to be verified. It is not writable.

        :raises BlobUnknown: there is none.
        """
        with self._files.lock:
            return MemoryPartial(self._files, self._files.blob(digest), digest, tag=None)

    def resume(self, digest: Digest, origin: str) -> MemoryPartial:
        """The partial file of ``digest`` from ``origin``, made if there is none."""
        tag = origin_tag(origin)
        with self._files.lock:
            return MemoryPartial(self._files, self._files.partial(digest, tag), digest, tag=tag)

    def delete(self, digest: Digest) -> None:
        """Delete a blob; nothing happens if there is none."""
        self._files.unlink(self._files.blobs, digest)

    def delete_partial(self, digest: Digest, tag: str) -> None:
        """Delete a partial file; nothing happens if there is none."""
        self._files.unlink(self._files.partials, (digest, tag))

    def blobs(self) -> Iterator[StoredFile]:
        """Every blob that is here."""
        for digest, content in self._files.listing(self._files.blobs):
            yield StoredFile(digest, len(content.bytes), content.modified)

    def partials(self) -> Iterator[StoredPartial]:
        """Every partial file that is here."""
        for (digest, tag), content in self._files.listing(self._files.partials):
            yield StoredPartial(digest, tag, len(content.bytes), content.modified)

    def free(self) -> int | None:
        """Bytes that can still be written, ``None`` without a capacity."""
        return self._files.free()


class _Content:
    """What an inode is on a disk: bytes, when they changed, and by how many files they are open."""

    def __init__(self, modified: float) -> None:
        self.bytes = bytearray()
        self.held: Sequence[tuple[int, int]] | None = None
        self.modified = modified
        self.named = True
        self.opened = 0


class _Filesystem:
    """The names of files, and how many bytes they take."""

    def __init__(self, capacity: int | None, now: Clock) -> None:
        self.lock: Final = RLock()
        self.blobs: Final[dict[Digest, _Content]] = {}
        self.partials: Final[dict[tuple[Digest, str], _Content]] = {}
        self.now: Final = now
        self._capacity = capacity
        self._used = 0

    def free(self) -> int | None:
        return None if self._capacity is None else max(0, self._capacity - self._used)

    def blob(self, digest: Digest) -> _Content:
        try:
            return self.blobs[digest]
        except KeyError:
            raise BlobUnknown(f"{digest} is not stored here") from None

    def partial(self, digest: Digest, tag: str) -> _Content:
        return self.partials.setdefault((digest, tag), _Content(self.now()))

    def listing(self, names: Mapping[Name, _Content]) -> list[tuple[Name, _Content]]:
        with self.lock:
            return list(names.items())

    def resize(self, content: _Content, size: int) -> None:
        growth = size - len(content.bytes)
        if growth > 0:
            if self._capacity is not None and self._used + growth > self._capacity:
                raise OSError(errno.ENOSPC, "the store's memory is full")
            content.bytes.extend(bytes(growth))
        else:
            del content.bytes[size:]
        self._used += growth

    def unlink(self, names: dict[Name, _Content], name: Name, only: _Content | None = None) -> None:
        with self.lock:
            content = names.get(name)
            if content is not None and only in (None, content):
                del names[name]
                content.named = False
                self.release(content)

    def commit(self, content: _Content, digest: Digest, tag: str | None) -> None:
        with self.lock:
            if self.blobs.get(digest) is content:
                return
            if tag is None or self.partials.get((digest, tag)) is not content:
                raise FileNotFoundError(errno.ENOENT, "the partial file was taken away")
            self.unlink(self.blobs, digest)
            self.blobs[digest] = self.partials.pop((digest, tag))

    def release(self, content: _Content) -> None:
        if not content.named and content.opened == 0:
            self._used -= len(content.bytes)
            content.bytes.clear()


class MemoryFile:
    """A :class:`~contentcache.storage.interfaces.BlobFile` in memory."""

    def __init__(self, files: _Filesystem, content: _Content) -> None:
        self._files: Final = files
        self._content: Final = content
        self._closed = False
        self._size = len(content.bytes)
        content.opened += 1

    @property
    def size(self) -> int:
        """Bytes in the file when it was opened."""
        return self._size

    @property
    def descriptor(self) -> int | None:
        """There is none."""
        return None

    def read(self, offset: int, length: int) -> bytes:
        """Up to ``length`` bytes from ``offset``; fewer only at the end of the file."""
        with self._files.lock:
            self._must_be_open()
            with memoryview(self._content.bytes) as view:
                return bytes(view[offset : offset + length])

    def read_now(self, offset: int, length: int) -> bytes | None:
        """The same: memory never blocks."""
        return self.read(offset, length)

    def is_loaded(self, offset: int, length: int) -> bool:
        """Whether they are there at all."""
        return offset + length <= self.size

    def load(self, offset: int, length: int) -> None:
        """They are in memory."""

    def close(self) -> None:
        """Free the bytes if the name was deleted. May be called twice."""
        with self._files.lock:
            if not self._closed:
                self._closed = True
                self._content.opened -= 1
                self._files.release(self._content)

    def _must_be_open(self) -> None:
        if self._closed:
            raise OSError(errno.EBADF, "this file was closed")


class MemoryPartial(MemoryFile):
    """A :class:`~contentcache.storage.interfaces.PartialFile` in memory."""

    def __init__(self, files: _Filesystem, content: _Content, digest: Digest, *, tag: str | None) -> None:
        super().__init__(files, content)
        self._digest = digest
        self._tag = tag
        self._adopted = tag is None
        noted, content.held = content.held, None
        whole = ((0, self.size),) if self.size else ()
        self._held = tuple(noted) if noted is not None else whole

    @property
    def held(self) -> Sequence[tuple[int, int]]:
        """The runs of bytes that were there when it was opened."""
        return self._held

    def park(self, held: Sequence[tuple[int, int]]) -> None:
        """Note which runs of bytes are there."""
        self._content.held = tuple(held)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """
        Write all of ``data`` at ``offset``, or nothing.

        :raises OSError: ``ENOSPC`` beyond the store's capacity.
        """
        with self._files.lock, memoryview(data).cast("B") as source:
            self._must_be_writable()
            stop = offset + len(source)
            if len(source) and stop > len(self._content.bytes):
                self._files.resize(self._content, stop)
            self._content.bytes[offset:stop] = source
            self._content.modified = self._files.now()

    def truncate(self, size: int) -> None:
        """Cut the file to ``size`` bytes, to start again."""
        with self._files.lock:
            self._must_be_writable()
            self._files.resize(self._content, size)
            self._content.modified = self._files.now()

    def commit(self) -> None:
        """Make it a blob of the store."""
        self._must_be_open()
        self._files.commit(self._content, self._digest, self._tag)

    def discard(self) -> None:
        """Delete the name, unless another file has it by now."""
        self._must_be_open()
        if self._tag is not None:
            self._files.unlink(self._files.partials, (self._digest, self._tag), only=self._content)
        self._files.unlink(self._files.blobs, self._digest, only=self._content)

    def _must_be_writable(self) -> None:
        self._must_be_open()
        if self._adopted:
            raise io.UnsupportedOperation(f"{self._digest} is a blob of the store: discard it and start anew")
