"""
Small blobs that were served lately, kept open, and found without a thread.

No way round who may have what: a grant and a link are looked at as for any other request, only in memory.
What is not known here is no answer; then the long way finds out.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import Final

from attrs import define

from contentcache.core.credentials import Credential
from contentcache.core.digest import Digest
from contentcache.core.ports import Run
from contentcache.delivery.access import Access
from contentcache.delivery.pulls import Pulls
from contentcache.delivery.tasks import in_background
from contentcache.storage.interfaces import BlobFile, Link

#: Bytes of the largest blob that counts as small.
LARGEST: Final = 256 << 10
#: Of fewer bytes the body itself is kept.
_TINY: Final = 4 << 10


@define(eq=False)
class Small:
    """
    A verified blob in an open file of its own. ``size`` is in bytes; ``written`` is the file's time.
    """

    digest: Digest
    descriptor: int
    size: int
    written: int
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

    def read_now(self) -> bytes | None:
        """
        All of it, ``None`` where that would mean to wait for a disk, or nobody can tell.
        """
        if self._body is not None:
            return self._body
        buffer = bytearray(self.size)
        if not self._peek(buffer, 0):
            return None
        body = bytes(buffer)
        if self.size <= _TINY:
            self._body = body
        return body

    def is_in_memory(self) -> bool:
        """
        Whether its last page is, which is good enough: pages so few come and go together.
        """
        return self._peek(bytearray(1), self.size - 1)

    def _peek(self, buffer: bytearray, offset: int) -> bool:
        try:
            return os.preadv(self.descriptor, [buffer], offset, os.RWF_NOWAIT) == len(buffer)
        except (OSError, AttributeError):  # tmpfs, other systems
            return False


class Warm:
    """
    At most ``most`` small blobs, those that were served last.
    """

    def __init__(self, access: Access, pulls: Pulls, run: Run, most: int) -> None:
        self._access = access
        self._pulls = pulls
        self._run = run
        self._most = most
        self._blobs: OrderedDict[Digest, Small] = OrderedDict()

    def __len__(self) -> int:
        return len(self._blobs)

    def key(self, link: Link, credential: Credential) -> bytes:
        """
        The name of a credential in a repository, for :meth:`find`.
        """
        return self._access.grant_key(link.origin, link.repository, credential)

    def keep(self, digest: Digest, file: BlobFile) -> None:
        """
        A blob of the store is served the long way.
        """
        descriptor = file.descriptor
        if descriptor is None or not 0 < file.size <= LARGEST or digest in self._blobs:
            return
        try:
            own = os.dup(descriptor)
        except OSError:
            return  # too many open files: the long way does without
        found = os.fstat(own)
        self._blobs[digest] = Small(digest, own, file.size, found.st_mtime_ns)
        while len(self._blobs) > self._most:
            self.drop(next(iter(self._blobs)))

    def find(self, key: bytes, link: Link) -> Small | None:
        """
        The blob, if this credential may have it in this repository, by what is in memory.

        To be used at once: it may be closed later.
        """
        small = self._blobs.get(link.digest)
        if small is None or not self._access.knows(key, link):
            return None
        if not small.is_there():
            self.drop(link.digest)
            return None
        self._blobs.move_to_end(link.digest)
        return small

    def pulled(self, small: Small) -> None:
        """
        It has been sent.
        """
        self._pulls.note(small.digest)

    def hold(self, small: Small) -> None:
        """
        Keep it open for somebody who takes it slowly; :meth:`release` is owed.
        """
        small.readers += 1
        self._pulls.begin(small.digest)

    def release(self, small: Small) -> None:
        """
        The reader has done.
        """
        small.readers -= 1
        self._pulls.end(small.digest)
        if small.dropped and not small.readers:
            in_background(self._close(small))

    def drop(self, digest: Digest) -> None:
        """
        It goes, or has gone.
        """
        small = self._blobs.pop(digest, None)
        if small is None:
            return
        small.dropped = True
        if not small.readers:
            # The last one to close a deleted file waits for its blocks to be freed.
            in_background(self._close(small))

    def tidy(self) -> None:
        """
        Let go of what is no longer in the store, so that its room is free.
        """
        for small in [small for small in self._blobs.values() if not small.is_there()]:
            self.drop(small.digest)

    def close(self) -> None:
        """
        The end.
        """
        for digest in tuple(self._blobs):
            self.drop(digest)

    async def _close(self, small: Small) -> None:
        await self._run(os.close, small.descriptor)
