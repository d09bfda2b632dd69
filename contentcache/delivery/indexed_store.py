"""The store together with what the index knows of it, and whether it can be written."""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import Logger

from contentcache.core.digest import Digest
from contentcache.core.errors import BlobUnknown
from contentcache.core.ports import Clock
from contentcache.storage.interfaces import BlobFile, BlobRecord, Index, PartialFile, Store
from contentcache.telemetry.metrics import Meter


class StoreHealth:
    """Whether the store accepts writes: ``fault`` is what it refused last, until it accepts one again."""

    _log = Logger()

    def __init__(self, meter: Meter, on_fault: Callable[[str | None], None]) -> None:
        self.fault: str | None = None
        self._meter = meter
        self._on_fault = on_fault

    def report(self, fault: str | None) -> None:
        """The store has refused a write, or with ``None`` accepted one."""
        if fault is not None:
            self._meter.store_write_error()
            if self.fault != fault:
                self._log.error("store not writable, pulls pass through uncached", reason=fault)
        elif self.fault is not None:
            self._log.info("store writable again")
        if fault != self.fault:
            self._on_fault(fault)
        self.fault = fault


class IndexedStore:
    """Looks blobs up and commits them. Everything blocks. ``wall`` is in seconds since the epoch."""

    _log = Logger()

    def __init__(self, store: Store, index: Index, wall: Clock) -> None:
        self.store = store
        self._index = index
        self._wall = wall

    def verified(self, digest: Digest) -> BlobRecord | None:
        """The record of a blob that is there and has been verified."""
        try:
            record = self._index.blob(digest)
        except OSError as error:
            self._log.error("blob record not read from the index", digest=digest, reason=error)
            return None
        return record if record is not None and record.verified else None

    def look_up(self, digest: Digest) -> tuple[BlobRecord | None, BlobFile | None]:
        """
        A record and a file for a verified blob, a record alone for one that nobody has verified yet.

        A file whose size is not the one that was recorded is thrown away.
        """
        record = None
        try:
            record = self._index.blob(digest)
            file = self.store.open(digest)
        except BlobUnknown:
            if record is not None:
                self._forget(digest)  # its file went, or never came: a kill, or somebody's hand
            return None, None
        except OSError as error:
            self._log.error("stored blob not readable", digest=digest, reason=error)
            return None, None
        if record is not None and record.size != file.size:
            names = self._index.names(digest)
            self._log.error(
                "stored blob changed on disk, deleted",
                digest=digest,
                repository=names.repositories,
                tag=names.tags,
                bytes=file.size,
                expected=record.size,
            )
            file.close()
            self._throw_away(digest)
            return None, None
        if record is not None and record.verified:
            return record, file
        size = file.size
        file.close()
        return record or BlobRecord(digest, size, self._wall(), verified=False), None

    def commit(self, digest: Digest, file: PartialFile, size: int, origin: str | None = None) -> None:
        """
        Make a verified file a blob, which ``origin`` has delivered (``None``: nobody knows who has). The
        index hears of it before and after: whatever is killed between the two is found again, and hashed
        before its first use.

        :raises OSError: the disk fails.
        """
        self._index.record([BlobRecord(digest, size, self._wall(), verified=False)])
        file.commit()
        if origin is not None:
            self._index.record_possession(origin, digest)
        self._index.record([BlobRecord(digest, size, self._wall(), verified=True)])

    def store_content(self, digest: Digest, origin: str, content: bytes) -> None:
        """
        Store a small content that has come whole and verified, from ``origin``.

        :raises OSError: the disk fails.
        """
        file = self.store.resume(digest, origin)
        try:
            file.truncate(0)
            file.write(0, content)
            self.commit(digest, file, len(content), origin)
        finally:
            file.close()

    def _forget(self, digest: Digest) -> None:
        try:
            self._index.forget([digest])
        except OSError as error:
            self._log.error("blob record not deleted from the index", digest=digest, reason=error)

    def _throw_away(self, digest: Digest) -> None:
        try:
            self.store.delete(digest)
            self._index.forget([digest])
        except OSError as error:
            self._log.error("changed blob not deleted", digest=digest, reason=error)


def close_file(found: tuple[BlobRecord | None, BlobFile | None]) -> None:
    """Close what :meth:`IndexedStore.look_up` has opened for a client that has disconnected meanwhile."""
    file = found[1]
    if file is not None:
        file.close()
