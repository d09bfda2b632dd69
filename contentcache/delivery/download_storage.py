"""The disk below a download: its partial file, the room that is reserved for it, and what becomes of both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from twisted.logger import Logger

from contentcache.aio.tasks import in_background
from contentcache.core.errors import BlobUnknown, DiskFailed
from contentcache.delivery.download_context import DownloadContext
from contentcache.delivery.download_file import DownloadFile
from contentcache.delivery.shared_download import DownloadKey, UndecidedError
from contentcache.storage.interfaces import PartialFile

#: Bytes that are reserved ahead of what has arrived, where the size is unknown.
_AHEAD: Final = 1 << 20


class DownloadStorage:
    """
    The partial file of one download and its reservation; with ``in_place`` it is a blob of the store, and needs
    no room. The file stays open until the last one who has acquired it releases it.
    """

    _log = Logger()

    def __init__(self, key: DownloadKey, context: DownloadContext, *, in_place: bool) -> None:
        self.file = DownloadFile(key.digest, context.run)
        self.is_committing = False
        self.will_be_stored = False
        self.is_stored = False
        self._key = key
        self._context = context
        self._in_place = in_place
        self._reservation = context.reservations.begin(key)
        self._is_reserving_ahead = False
        self._is_unlinked = False
        self._holders = 1

    def acquire(self) -> None:
        """Keep the file open until :meth:`release`."""
        self._holders += 1

    def release(self) -> None:
        """The file is not needed any more by one who has acquired it."""
        self._holders -= 1
        if self._holders == 0:
            # Not before: what subscribers still read is on the disk, unlinked or not.
            self.file.close()
            self._reservation.release()

    async def open(self) -> PartialFile:
        """
        The file that an earlier download of this origin has left, or a new one.

        :raises UndecidedError: the blob that was to be verified was deleted meanwhile.
        :raises DiskFailed: it cannot be opened.
        """
        store, key = self._context.store, self._key
        try:
            if self._in_place:
                return await self.file.in_thread(store.adopt, key.digest)
            return await self.file.in_thread(store.resume, key.digest, key.origin)
        except BlobUnknown as error:
            raise UndecidedError("the blob was deleted a moment ago") from error

    async def reserve(self, total: int | None, end: int) -> None:
        """
        Have room reserved for the whole content of ``total`` bytes; where nobody knows how many there are, for
        more than the ``end`` bytes that are there.

        :raises DiskFailed: there is none.
        """
        if not self._in_place:
            await self._reservation.grow(_with_more(end) if total is None else total)

    def reserve_ahead(self, stop: int, end: int) -> None:
        """Reserve in the background before it is needed, so that a body of unknown length does not wait."""
        if not self._is_reserving_ahead and stop + _AHEAD // 2 > self._reservation.size:
            self._is_reserving_ahead = True
            in_background(self._reserve_ahead(end))

    async def _reserve_ahead(self, end: int) -> None:
        # Where it fails nothing is lost yet, and it is not tried again: reserve_until() decides.
        try:
            await self.reserve(None, end)
        except DiskFailed:
            return
        self._is_reserving_ahead = False

    async def reserve_until(self, total: int | None, stop: int) -> int | None:
        """See :data:`contentcache.delivery.body_writer.Reserve`; a known ``total`` is reserved already."""
        if total is not None:
            return None
        if stop > self._reservation.size:
            await self._reservation.grow(_with_more(stop))
        return self._reservation.size

    async def discard(self) -> None:
        """
        Unlink the file; who has it open may still read it.

        :raises DiskFailed: it cannot be unlinked.
        """
        await self.file.in_thread(self.file.file.discard)
        self._is_unlinked = True

    async def commit(self, size: int, origin: str | None) -> None:
        """Make the verified file a blob, which ``origin`` has delivered. Where the disk fails, that is reported."""
        self.will_be_stored = True
        try:
            await self._context.run(self._context.commit, self._key.digest, self.file.file, size, origin)
        except OSError as error:
            self.will_be_stored = False
            self._context.report_disk(f"{self._key.digest} is fetched but cannot be stored: {error}")
        else:
            self.is_stored = True
            self._context.report_disk(None)

    async def leave(self, held: Sequence[tuple[int, int]], *, is_useless: bool) -> None:
        """Leave a partial file for the next download to resume, or none if its bytes ``held`` are useless."""
        try:
            if is_useless or not held:
                await self.discard()
            elif len(held) > 1 or held[0][0] > 0:
                await self.file.in_thread(self.file.file.park, tuple(held))
        except DiskFailed as error:
            self._log.warn(
                "partial file not stored",
                origin=self._key.origin,
                digest=self._key.digest,
                reason=error.__cause__,
            )

    def shrink_reservation(self, size: int) -> None:
        """Reserve no more than the ``size`` bytes that are left of a download that has ended."""
        if not (self.is_stored or self._in_place):
            self._reservation.shrink(size, self._is_unlinked)


def _with_more(size: int) -> int:
    """What to reserve for a content of unknown length of which ``size`` bytes are there."""
    return size + max(_AHEAD, size // 4)
