"""What downloads are given: options, the dependencies that all share, and room in the store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import count

from attrs import frozen

from contentcache.core.digest import Digest
from contentcache.core.errors import LargerThanStore, NoRoom, OriginRefused
from contentcache.core.live import Live
from contentcache.core.ports import Clock, Run, Timer
from contentcache.core.sizes import spell
from contentcache.delivery.options import DeliveryOptions
from contentcache.delivery.shared_download import DownloadKey
from contentcache.delivery.subscribers import Subscriber
from contentcache.storage.interfaces import PartialFile, Reservation, Room, Store
from contentcache.storage.partial_files import origin_tag
from contentcache.telemetry.metrics import Meter


@frozen
class DeliveryPorts:
    """What delivery uses of the process. ``random(n)`` is a number from 0 to ``n - 1``."""

    run: Run
    clock: Timer
    wall: Clock
    random: Callable[[int], int]
    meter: Meter


@frozen
class DownloadOptions:
    """
    With ``in_place`` it is a blob of the store that was never verified: upstream is not asked, and it is
    deleted on a digest mismatch. ``largest`` bounds the bytes of a manifest, ``None`` for a blob. ``total`` is
    what the origin says of the size, where it was asked before. While no subscriber wants the whole content,
    only segments are downloaded, until ``fill_after`` (a share) of it is there. ``retry_for`` is how many seconds
    it waits for unavailable upstreams.
    """

    in_place: bool = False
    largest: int | None = None
    total: int | None = None
    fill_after: float = 1.0
    retry_for: float = 0.0

    @property
    def is_manifest(self) -> bool:
        """Whether it is a manifest: no byte is sent before all are verified."""
        return self.largest is not None


@frozen
class DownloadContext:
    """
    The dependencies of downloads.

    ``request_time()`` is the time of a question that is about to be asked; ``is_known_target(origin, host)``
    says whether a host that an origin redirects to has delivered verified bytes. ``record_allowed(subscriber,
    media_type, asked)`` and ``record_denied(subscriber, refusal, asked)`` record what the origin answered to a
    question of that time. ``commit(digest, file, size, origin)`` makes a verified file a blob that ``origin``
    has delivered, and blocks; ``report_disk(fault)`` is called with what the disk refuses, and with ``None``
    when it has accepted a write.
    """

    store: Store
    run: Run
    clock: Timer
    meter: Meter
    request_time: Callable[[], float]
    is_known_target: Callable[[str, str | None], bool]
    record_allowed: Callable[[Subscriber, str | None, float], None]
    record_denied: Callable[[Subscriber, OriginRefused, float], None]
    reservations: Reservations
    commit: Callable[[Digest, PartialFile, int, str | None], None]
    report_disk: Callable[[str | None], None]


class Reservations:
    """
    Room in the store for the downloads of this process, reserved when they begin: ``maxsize`` and ``minfree``
    hold for all together. ``flush`` writes the last pulls into the index: what was pulled in the last seconds
    counts as in use until the index knows when, and cannot be evicted before.
    """

    def __init__(
        self, room: Room, flush: Callable[[], Awaitable[None]], options: Live[DeliveryOptions]
    ) -> None:
        self._room = room
        self._options = options
        self._flush = flush
        self._numbers = count(1)

    def begin(self, key: DownloadKey) -> DownloadReservation:
        """The reservation of a download, of nothing so far."""
        return DownloadReservation(self, key, str(next(self._numbers)))

    async def check_room(self, key: DownloadKey) -> None:
        """
        Check that a download may begin at all.

        :raises NoRoom: it may not.
        """
        reservation = self.begin(key)
        try:
            failure = await self.reserve(reservation.name, key, 0)
        finally:
            reservation.release()
        if failure is not None:
            raise failure

    async def reserve(self, name: str, key: DownloadKey, size: int) -> NoRoom | None:
        """Reserve ``size`` bytes in all; see :class:`~contentcache.storage.interfaces.Room`."""
        maxsize = self._options.now.maxsize
        if maxsize is not None and size > maxsize:
            return LargerThanStore(f"it is larger than maxsize ({spell(maxsize)})", detail=size)
        wanted = Reservation(name, key.digest, origin_tag(key.origin), size)
        if await self._room.reserve(wanted) is None:
            return None
        await self._flush()
        lacking = await self._room.reserve(wanted)
        return None if lacking is None else NoRoom(lacking, detail=size)

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
        self._is_reserved = False
        self._is_released = False
        self._left: tuple[int, bool] | None = None

    async def grow(self, size: int) -> None:
        """
        Have ``size`` bytes reserved in all.

        :raises DiskFailed: there is no room for them.
        """
        if self._is_reserved and size <= self.size:
            return
        self._is_reserved = True
        failure = await self._reservations.reserve(self.name, self._key, size)
        if self._is_released:
            self._reservations.release(self.name)  # again: the one before came too early
        elif self._left is not None:
            self.shrink(*self._left)
        if failure is not None:
            raise failure
        self.size = max(self.size, size)

    def shrink(self, size: int, unlinked: bool) -> None:
        """The download has ended and left ``size`` bytes in a file that is still open, perhaps unlinked."""
        self._left = (size, unlinked)
        self._reservations.shrink(self.name, size, unlinked=unlinked)

    def release(self) -> None:
        """Give it up, for good: the file is closed."""
        self._is_released = True
        self._reservations.release(self.name)
