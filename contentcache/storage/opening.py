"""Store and index, opened from the configuration."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from attrs import frozen
from twisted.logger import Logger

from contentcache.config.model import StorageSettings
from contentcache.storage.filesystem import FilesystemStore
from contentcache.storage.healing import HealingIndex
from contentcache.storage.interfaces import Index, Store
from contentcache.storage.lock import RootLock
from contentcache.storage.memory import MemoryStore
from contentcache.storage.memory_index import MemoryIndex
from contentcache.storage.sqlite import SqliteIndex

_log = Logger()
#: What a disk says that cannot be written now, and may be again.
_UNWRITABLE: Final = frozenset({errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO})


@frozen
class Kept:
    """What holds the bytes. ``store_fault`` says why nothing could be written at the start, where that is so."""

    store: Store
    index: Index
    lock: RootLock | None = None
    store_fault: str | None = None

    @property
    def fault(self) -> str | None:
        """What an operator should know of the disk now."""
        index_fault = self.index.fault if isinstance(self.index, HealingIndex) else None
        return self.store_fault or index_fault


def open_storage(settings: StorageSettings, anew: Callable[[], None]) -> Kept:
    """
    Open store and index, and hold the root directory. Blocks.

    A disk that cannot be written is no reason not to start: clients are served, what they pull passes
    through. ``anew`` is called, in any thread, when the index was made anew and the store must be listed.

    :raises StorageRefused: another daemon has the root directory, or a newer version wrote the index.
    :raises OSError: the root directory is not to be had at all.
    """
    if settings.driver == "inmemory":
        return Kept(MemoryStore(), MemoryIndex())
    store = FilesystemStore(settings.rootdirectory)
    lock = RootLock(settings.rootdirectory)
    fault = None
    try:
        store.prepare()
        lock.acquire()
        store.tidy()
    except OSError as error:
        fault = _unwritable(error)
    open_index = partial(SqliteIndex, str(own_file(settings, "index.sqlite3")))
    first: Index | None = None
    try:
        first = open_index()
    except OSError as error:
        index_fault = _unwritable(error)
        if not lock.held:  # so it is not ours to try again
            return Kept(store, MemoryIndex(), lock, fault or index_fault)
        _log.error("{fault}; the index is in memory for now", fault=index_fault)
    return Kept(store, HealingIndex(open_index, first, monotonic=time.monotonic, anew=anew), lock, fault)


def own_file(settings: StorageSettings, name: str) -> Path:
    """Where a file of the daemon's own is kept."""
    return Path(settings.rootdirectory, "contentcache", name)


def _unwritable(error: OSError) -> str:
    if error.errno not in _UNWRITABLE:
        raise error
    return f"the store cannot be written: {error.strerror or error}"
