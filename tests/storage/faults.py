"""A store over another one, whose disk fails where a test says."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from contentcache.core.digest import Digest
from contentcache.storage.interfaces import BlobFile, PartialFile, Store, StoredFile, StoredPartial


class FaultyStore:
    """
    Passes everything on until ``break_down`` was called; from then on the operations named fail.

    Operations are the names of the methods of ``Store`` and ``PartialFile``. A ``write`` fails at
    the byte ``at`` of its file: what comes before it is written, as a disk does that fills up.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._errno = 0
        self._at = 0
        self._operations: frozenset[str] = frozenset()

    def stands_for(self, store: Store) -> None:
        """Pass on to another store from now on."""
        self._store = store

    def break_down(self, errno: int, *operations: str, at: int = 0) -> None:
        """Let these operations fail with this errno."""
        self._errno = errno
        self._at = at
        self._operations = frozenset(operations)

    def mend(self) -> None:
        """Let everything work again."""
        self._operations = frozenset()

    def check(self, operation: str) -> None:
        if operation in self._operations:
            raise OSError(self._errno, os.strerror(self._errno))

    def left(self, offset: int, length: int) -> int:
        """How many of these bytes can still be written."""
        return max(0, min(length, self._at - offset)) if "write" in self._operations else length

    def open(self, digest: Digest) -> BlobFile:
        self.check("open")
        return self._store.open(digest)

    def adopt(self, digest: Digest) -> PartialFile:
        self.check("adopt")
        return FaultyPartial(self, self._store.adopt(digest))

    def resume(self, digest: Digest, origin: str) -> PartialFile:
        self.check("resume")
        return FaultyPartial(self, self._store.resume(digest, origin))

    def delete(self, digest: Digest) -> None:
        self.check("delete")
        self._store.delete(digest)

    def delete_partial(self, digest: Digest, tag: str) -> None:
        self.check("delete_partial")
        self._store.delete_partial(digest, tag)

    def blobs(self) -> Iterator[StoredFile]:
        self.check("blobs")
        return self._store.blobs()

    def partials(self) -> Iterator[StoredPartial]:
        self.check("partials")
        return self._store.partials()

    def free(self) -> int | None:
        self.check("free")
        return self._store.free()


class FaultyPartial:
    """A partial file on the disk that fails."""

    def __init__(self, disk: FaultyStore, partial: PartialFile) -> None:
        self._disk = disk
        self._partial = partial

    @property
    def size(self) -> int:
        return self._partial.size

    @property
    def held(self) -> Sequence[tuple[int, int]]:
        return self._partial.held

    def park(self, held: Sequence[tuple[int, int]]) -> None:
        self._disk.check("park")
        self._partial.park(held)

    @property
    def descriptor(self) -> int | None:
        return self._partial.descriptor

    def read(self, offset: int, length: int) -> bytes:
        self._disk.check("read")
        return self._partial.read(offset, length)

    def read_now(self, offset: int, length: int) -> bytes | None:
        return self._partial.read_now(offset, length)

    def is_loaded(self, offset: int, length: int) -> bool:
        return self._partial.is_loaded(offset, length)

    def load(self, offset: int, length: int) -> None:
        self._disk.check("read")
        self._partial.load(offset, length)

    def close(self) -> None:
        self._partial.close()

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        left = self._disk.left(offset, len(data))
        self._partial.write(offset, memoryview(data)[:left])
        if left < len(data):
            self._disk.check("write")

    def truncate(self, size: int) -> None:
        self._disk.check("truncate")
        self._partial.truncate(size)

    def commit(self) -> None:
        self._disk.check("commit")
        self._partial.commit()

    def discard(self) -> None:
        self._disk.check("discard")
        self._partial.discard()
