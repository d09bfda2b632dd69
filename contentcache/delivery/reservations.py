"""Room in the store for downloads, reserved when they begin: ``maxsize`` and ``minfree`` hold for all together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import count

from contentcache.core.errors import DiskFailed
from contentcache.delivery.shared_download import DownloadKey
from contentcache.storage.interfaces import Reservation, Room
from contentcache.storage.partial_files import origin_tag


class Reservations:
    """
    Reserves for the downloads of this process. ``flush`` writes the last pulls into the index: what was
    pulled in the last seconds counts as in use until the index knows when, and cannot be evicted before.
    """

    def __init__(self, room: Room, flush: Callable[[], Awaitable[None]]) -> None:
        self._room = room
        self._flush = flush
        self._numbers = count(1)

    def begin(self, key: DownloadKey) -> DownloadReservation:
        """The reservation of a download, of nothing so far."""
        return DownloadReservation(self, key, str(next(self._numbers)))

    async def has_room(self, key: DownloadKey) -> bool:
        """Whether a download may begin at all."""
        reserved = self.begin(key)
        try:
            return await self.reserve(reserved.name, key, 0)
        finally:
            reserved.release()

    async def reserve(self, name: str, key: DownloadKey, size: int) -> bool:
        """Reserve ``size`` bytes in all; see :class:`~contentcache.storage.interfaces.Room`."""
        wanted = Reservation(name, key.digest, origin_tag(key.origin), size)
        if await self._room.reserve(wanted):
            return True
        await self._flush()
        return await self._room.reserve(wanted)

    def shrink(self, name: str, size: int, *, unlinked: bool) -> None:
        """Reserve no more than what a download that has ended left; see :class:`Room`."""
        self._room.shrink(name, size, unlinked=unlinked)

    def release(self, name: str) -> None:
        """Give up a reservation."""
        self._room.release(name)


class DownloadReservation:
    """What one download has reserved."""

    def __init__(self, reservations: Reservations, key: DownloadKey, name: str) -> None:
        self.name = name
        self.size = 0
        self._reservations = reservations
        self._key = key
        self._begun = False
        self._released = False
        self._left: tuple[int, bool] | None = None

    async def grow(self, size: int) -> None:
        """
        Have ``size`` bytes reserved in all.

        :raises DiskFailed: there is no room for them.
        """
        if self._begun and size <= self.size:
            return
        self._begun = True
        fits = await self._reservations.reserve(self.name, self._key, size)
        if self._released:
            self._reservations.release(self.name)  # again: the one before came too early
        elif self._left is not None:
            self.shrink(*self._left)
        if not fits:
            raise DiskFailed("there is no room in the store")
        self.size = max(self.size, size)

    def shrink(self, size: int, unlinked: bool) -> None:
        """The download has ended and left ``size`` bytes in a file that is still open, perhaps unlinked."""
        self._left = (size, unlinked)
        self._reservations.shrink(self.name, size, unlinked=unlinked)

    def release(self) -> None:
        """Give it up, for good: the file is closed."""
        self._released = True
        self._reservations.release(self.name)
