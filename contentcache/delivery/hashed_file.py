"""
The file of a download: which of its bytes are written, and the hash of its contiguous prefix.

Streams and ranges write into one sparse file from several threads. What is written and how far it is hashed
belong together: a hash that runs past the prefix reads a hole of the file. So both have one owner and one
lock, and how far may be hashed is decided under that lock, from the spans that are really written.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import Final

from contentcache.core.digest import Digest, Hasher
from contentcache.core.spans import Spans
from contentcache.storage.interfaces import PartialFile

#: Bytes that are read and hashed at a time.
PIECE: Final = 1 << 20


class HashedFile:
    """
    A partial file with its written spans and its hash. ``spans`` of it are written already.

    Everything blocks and runs in a thread, except :attr:`prefix` and :attr:`hashed`. Those may be behind what
    another thread does at that moment, never ahead of it: they serve to see whether there is work, not to
    decide how much.
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

        A byte is written once, whatever another body says in its place: somebody may have read it.

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
        Cut the file to nothing, and forget what was written and hashed.

        :raises OSError: the disk fails.
        """
        with self._lock:
            self._file.truncate(0)
            self._written.clear()
            self._hasher = self._digest.hasher()
            self._hashed = self._prefix = 0
