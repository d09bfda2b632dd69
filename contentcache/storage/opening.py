"""Store and index, opened from the configuration: the lock on the root directory, and the cache's secret."""

from __future__ import annotations

import errno
import os
import secrets
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from attrs import frozen
from twisted.logger import Logger

from contentcache.config.model import StorageSettings
from contentcache.persist.atomic_file import create_atomically, make_folders, read_bounded, write_atomically
from contentcache.persist.file_lock import FileLock, FileLockedError, is_running, process_name
from contentcache.storage.filesystem import FilesystemStore
from contentcache.storage.index_memory import MemoryIndex
from contentcache.storage.index_recovery import RecoveringIndex
from contentcache.storage.index_sqlite import SqliteIndex
from contentcache.storage.interfaces import Index, IndexLimits, Store, StoreLocked
from contentcache.storage.memory import MemoryStore

#: Bytes of the secret.
_SECRET_SIZE: Final = 32
_log = Logger()
#: Errors of a disk that cannot be written now, and may be later.
_UNWRITABLE: Final = frozenset({errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO})


class RootLock:
    """
    The lock on ``<root>/contentcache/lock``: who holds it may write under ``root``.

    A disk that became read-only can still be locked. The constructor does not touch the disk.
    """

    def __init__(self, root: str) -> None:
        self._root = os.path.abspath(root)
        self._folder = os.path.join(self._root, "contentcache")
        self._lock = FileLock(os.path.join(self._folder, "lock"), mode=0o640, allow_read_only=True)

    @property
    def held(self) -> bool:
        """Whether this process holds it."""
        return self._lock.held

    @property
    def descriptor(self) -> int | None:
        """
        The open file that is locked, ``None`` where it is not. Processes that inherit it hold the lock too, until
        the last one has ended.
        """
        return self._lock.descriptor

    def acquire(self, timeout: float = 5.0) -> None:
        """
        Acquire the lock. Where the process that locked it has ended, those that it has started, and that still
        hold the lock, are about to end too: this waits for them up to ``timeout`` seconds.

        :raises StoreLocked: another process holds it.
        :raises OSError: the disk does not allow to try.
        """
        if self.held:
            return
        try:
            make_folders(self._folder)
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
        try:
            self._lock.acquire(timeout, worth_waiting=_has_ended)
        except FileLockedError as error:
            raise StoreLocked(_refusal(self._root, error.holder)) from error

    def close(self) -> None:
        """Release the lock. May be called twice."""
        self._lock.release()

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _has_ended(holder: int | None) -> bool:
    return holder is not None and not is_running(holder)


def _refusal(root: str, holder: int | None) -> str:
    """
    >>> print(_refusal("/var/lib/registry", 17))
    /var/lib/registry is in use by process 17: stop it, or give this daemon another rootdirectory
    """
    return f"{root} is in use by {process_name(holder)}: stop it, or give this daemon another rootdirectory"


@frozen
class Storage:
    """Store and index. ``store_fault`` says why nothing could be written at the start, where that is so."""

    store: Store
    index: Index
    lock: RootLock | None = None
    store_fault: str | None = None

    @property
    def fault(self) -> str | None:
        """What is wrong with the disk now, for the operator."""
        index_fault = self.index.fault if isinstance(self.index, RecoveringIndex) else None
        return self.store_fault or index_fault


def open_storage(settings: StorageSettings, index_replaced: Callable[[], None]) -> Storage:
    """
    Open store and index, and lock the root directory. Blocks.

    A disk that cannot be written does not prevent a start: what clients pull is passed through.
    ``index_replaced`` is called, in any thread, when the index was replaced and the store must be listed.

    :raises StorageError: another daemon has locked the root directory, or a newer version wrote the index.
    :raises OSError: the root directory cannot be used at all.
    """
    limits = IndexLimits()
    if settings.driver == "inmemory":
        return Storage(MemoryStore(), MemoryIndex(limits))
    store = FilesystemStore(settings.rootdirectory)
    lock = RootLock(settings.rootdirectory)
    fault = None
    try:
        store.prepare()
        lock.acquire()
        store.tidy()
    except OSError as error:
        fault = _unwritable(error)
    open_index = partial(SqliteIndex, str(own_file(settings, "index.sqlite3")), limits)
    first: Index | None = None
    try:
        first = open_index()
    except OSError as error:
        index_fault = _unwritable(error)
        if not lock.held:  # then the index must not be opened later either
            return Storage(store, MemoryIndex(limits), lock, fault or index_fault)
        _log.error("index kept in memory for now", reason=index_fault)
    return Storage(
        store,
        RecoveringIndex(open_index, first, monotonic=time.monotonic, replaced=index_replaced, limits=limits),
        lock,
        fault,
    )


def own_file(settings: StorageSettings, name: str) -> Path:
    """The path of a file of the daemon's own."""
    return Path(settings.rootdirectory, "contentcache", name)


def _unwritable(error: OSError) -> str:
    if error.errno not in _UNWRITABLE:
        raise error
    return f"the store cannot be written: {error.strerror or error}"


def read_or_make_secret(path: Path) -> bytes:
    """
    The secret in the file at ``path``, which is made where there is none.

    Where it can neither be read nor made it is one that ends with this process, with a line in the log.
    Blocks on the disk.
    """
    for _ in range(2):
        try:
            found = _read_secret(path)
        except FileNotFoundError:
            found = b""
        except OSError as error:
            return _secret_of_process(path, error)
        if len(found) == _SECRET_SIZE:
            return found
        try:
            _make_secret(path)
        except OSError as error:
            return _secret_of_process(path, error)
    return _secret_of_process(path, OSError("it is not what was written"))


def _read_secret(path: Path) -> bytes:
    try:
        return read_bounded(path, _SECRET_SIZE)
    except OSError as error:
        if error.errno != errno.EFBIG:
            raise
        return b""  # not what was written


def _make_secret(path: Path) -> None:
    """Whoever finds it finds all of it, and who comes second reads that."""
    make_folders(path.parent)
    beside = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    content = secrets.token_bytes(_SECRET_SIZE)
    try:
        create_atomically(path, content, mode=0o600, beside=beside)
    except FileExistsError:
        if len(_read_secret(path)) != _SECRET_SIZE:  # cut short by a full disk
            write_atomically(path, content, mode=0o600, fsync=False, beside=beside)


def _secret_of_process(path: Path, error: OSError) -> bytes:
    _log.warn(
        "secret not stored",
        path=path,
        reason=error.strerror or str(error),
        effect="next pages of lists begin anew after a restart",
    )
    return secrets.token_bytes(_SECRET_SIZE)
