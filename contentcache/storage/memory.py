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

    As on a disk, a file whose name is gone takes room until its last reader closes it. ``now`` gives
    the seconds since the epoch that files are stamped with, as a filesystem does by itself.
    """

    def __init__(self, capacity: int | None = None, now: Clock = time.time) -> None:
        self._room = _Room(capacity, now)

    def open(self, digest: Digest) -> MemoryFile:
        """
        A blob of the store.

        :raises BlobUnknown: there is none.
        """
        with self._room.lock:
            return MemoryFile(self._room, self._room.blob(digest))

    def adopt(self, digest: Digest) -> MemoryPartial:
        """
        A blob of the store that is not known to be verified. It is not writable.

        :raises BlobUnknown: there is none.
        """
        with self._room.lock:
            return MemoryPartial(self._room, self._room.blob(digest), digest, tag=None)

    def resume(self, digest: Digest, origin: str) -> MemoryPartial:
        """The partial file of ``digest`` from ``origin``, made if there is none."""
        tag = origin_tag(origin)
        with self._room.lock:
            return MemoryPartial(self._room, self._room.partial(digest, tag), digest, tag=tag)

    def delete(self, digest: Digest) -> None:
        """Take away a blob; nothing happens if there is none."""
        self._room.take_name(self._room.blobs, digest)

    def delete_partial(self, digest: Digest, tag: str) -> None:
        """Take away a partial file; nothing happens if there is none."""
        self._room.take_name(self._room.partials, (digest, tag))

    def blobs(self) -> Iterator[StoredFile]:
        """Every blob that is here."""
        for digest, content in self._room.listing(self._room.blobs):
            yield StoredFile(digest, len(content.bytes), content.modified)

    def partials(self) -> Iterator[StoredPartial]:
        """Every partial file that is here."""
        for (digest, tag), content in self._room.listing(self._room.partials):
            yield StoredPartial(digest, tag, len(content.bytes), content.modified)

    def free(self) -> int | None:
        """Bytes that can still be written, ``None`` without a capacity."""
        return self._room.free()


class _Content:
    """What an inode is on a disk: bytes, when they changed, and who holds on to them."""

    def __init__(self, modified: float) -> None:
        self.bytes = bytearray()
        self.held: Sequence[tuple[int, int]] | None = None
        self.modified = modified
        self.named = True
        self.opened = 0


class _Room:
    """What a filesystem is to its files: names, and a count of what they take."""

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

    def take_name(self, names: dict[Name, _Content], name: Name, only: _Content | None = None) -> None:
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
            self.take_name(self.blobs, digest)
            self.blobs[digest] = self.partials.pop((digest, tag))

    def release(self, content: _Content) -> None:
        if not content.named and content.opened == 0:
            self._used -= len(content.bytes)
            content.bytes.clear()


class MemoryFile:
    """A :class:`~contentcache.storage.interfaces.BlobFile` in memory."""

    def __init__(self, room: _Room, content: _Content) -> None:
        self._room: Final = room
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
        """There is no file."""
        return None

    def read(self, offset: int, length: int) -> bytes:
        """Up to ``length`` bytes from ``offset``; fewer only at the end of the file."""
        with self._room.lock:
            self._must_be_open()
            with memoryview(self._content.bytes) as view:
                return bytes(view[offset : offset + length])

    def read_now(self, offset: int, length: int) -> bytes | None:
        """The same: memory never blocks."""
        return self.read(offset, length)

    def is_loaded(self, offset: int, length: int) -> bool:
        """They are, if they are there at all."""
        return offset + length <= self.size

    def load(self, offset: int, length: int) -> None:
        """They are."""

    def close(self) -> None:
        """Give the room back if the name is gone. May be called twice."""
        with self._room.lock:
            if not self._closed:
                self._closed = True
                self._content.opened -= 1
                self._room.release(self._content)

    def _must_be_open(self) -> None:
        if self._closed:
            raise OSError(errno.EBADF, "this file was closed")


class MemoryPartial(MemoryFile):
    """A :class:`~contentcache.storage.interfaces.PartialFile` in memory."""

    def __init__(self, room: _Room, content: _Content, digest: Digest, *, tag: str | None) -> None:
        super().__init__(room, content)
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
        with self._room.lock, memoryview(data).cast("B") as source:
            self._must_be_writable()
            stop = offset + len(source)
            if len(source) and stop > len(self._content.bytes):
                self._room.resize(self._content, stop)
            self._content.bytes[offset:stop] = source
            self._content.modified = self._room.now()

    def truncate(self, size: int) -> None:
        """Cut the file to ``size`` bytes, to start again."""
        with self._room.lock:
            self._must_be_writable()
            self._room.resize(self._content, size)
            self._content.modified = self._room.now()

    def commit(self) -> None:
        """Make it a blob of the store."""
        self._must_be_open()
        self._room.commit(self._content, self._digest, self._tag)

    def discard(self) -> None:
        """Take the name away, unless another file has it by now."""
        self._must_be_open()
        if self._tag is not None:
            self._room.take_name(self._room.partials, (self._digest, self._tag), only=self._content)
        self._room.take_name(self._room.blobs, self._digest, only=self._content)

    def _must_be_writable(self) -> None:
        self._must_be_open()
        if self._adopted:
            raise io.UnsupportedOperation(f"{self._digest} is a blob of the store: discard it and start anew")
