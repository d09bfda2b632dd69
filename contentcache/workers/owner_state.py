"""What the owner of a digest has reported of its download to another worker."""

from __future__ import annotations

import os
from typing import Final

from contentcache.core.errors import CacheError
from contentcache.core.spans import Spans
from contentcache.delivery.shared_download import readable
from contentcache.storage.interfaces import BlobFile
from contentcache.workers import messages

#: Errors that are stored until readers request the bytes again.
_MAX_UNAVAILABLE: Final = 64
_EVERYTHING: Final = 1 << 62


class OwnerState:
    """What the owner has reported of its download, and the file that its bytes are in."""

    def __init__(self, *, in_place: bool, total: int | None) -> None:
        self.file: BlobFile | None = None
        self.total: int | None = None
        self.held = Spans()
        self.media_type: str | None = None
        self.verified = self.is_stored = False
        self.awaits_decision = not in_place and total is None
        self.withholds_all = in_place
        #: How often bytes that were read here may have changed since: by a restart, or in a successor's file.
        self.generation = 0
        self._owner_generation = 0
        self._unconfirmed: tuple[tuple[int, int], ...] = ()

    @property
    def prefix(self) -> int:
        """How many bytes are there from the start without a gap."""
        return self.held.reach(0)

    def replace_file(self, file: BlobFile) -> bool:
        """The owner has sent its file; whether it is the file of a successor, of which nothing is known yet."""
        before, self.file = self.file, file
        if before is None:
            return False
        self._owner_generation = 0
        # What was known before is so no longer, unless the successor's first report has all of it.
        self._unconfirmed = tuple(self.held) if _is_same(before, file) else ((0, _EVERYTHING),)
        self.held.clear()
        before.close()
        return True

    def update(self, reported: messages.DownloadState) -> None:
        """The owner has reported its state."""
        if reported.generation != self._owner_generation:
            self._owner_generation = reported.generation
            self.generation += 1
            self.held.clear()
        self.media_type = reported.media_type
        self.awaits_decision = reported.awaits_decision
        self.withholds_all = reported.withholds_all
        self.total = reported.total
        for start, stop in reported.held:
            self.held.add(start, stop)
        unconfirmed, self._unconfirmed = self._unconfirmed, ()
        if any(self.held.reach(start) < stop for start, stop in unconfirmed):
            # A subscriber may have read bytes here that are, or will be, others by now.
            self.generation += 1
        self.verified, self.is_stored = reported.verified, reported.is_stored

    def readable_until(self, announced: int, position: int, *, small_part: bool) -> int:
        """Up to which byte a subscriber at ``position`` may read."""
        if self.verified:
            return self.prefix
        if self.withholds_all or self.generation:
            return 0
        return readable(self.held, announced, self.total, position, small_part=small_part)


class ByteRequests:
    """Bytes that were requested from the owner since its last report, and those that cannot be had."""

    def __init__(self) -> None:
        self._requested: set[tuple[int, int | None]] = set()
        self._unavailable: list[tuple[int, CacheError]] = []

    def add(self, position: int, stop: int | None) -> bool:
        """Whether this is a new request."""
        is_new = (position, stop) not in self._requested
        self._requested.add((position, stop))
        return is_new

    def clear(self) -> None:
        """The owner has reported: what is still missing is requested again."""
        self._requested.clear()

    def fail(self, position: int, error: CacheError) -> None:
        """The bytes at ``position`` cannot be had: one reader gets the error, any other one requests them again."""
        self._unavailable = [*self._unavailable[1 - _MAX_UNAVAILABLE :], (position, error)]
        self._requested = {requested for requested in self._requested if requested[0] != position}

    def check(self, position: int) -> None:
        """Raise the error of the bytes at ``position``, once."""
        for unavailable in self._unavailable:
            if unavailable[0] == position:
                self._unavailable.remove(unavailable)
                raise unavailable[1]


def _is_same(one: BlobFile, other: BlobFile) -> bool:
    if one.descriptor is None or other.descriptor is None:
        return False
    return os.path.samestat(os.fstat(one.descriptor), os.fstat(other.descriptor))
