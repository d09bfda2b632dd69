"""One daemon to a root directory."""

from __future__ import annotations

import errno
import os
from types import TracebackType
from typing import Self

from contentcache.persist.atomic_file import make_folders
from contentcache.persist.file_lock import FileLock, FileLockedError, is_running, process_name
from contentcache.storage.errors import StoreLocked


class RootLock:
    """
    The exclusive right to write under ``root``: a lock on ``<root>/contentcache/lock``.

    A disk that became read-only can still be locked. The constructor does not touch the disk.
    """

    def __init__(self, root: str) -> None:
        self._root = os.path.abspath(root)
        self._folder = os.path.join(self._root, "contentcache")
        self._lock = FileLock(os.path.join(self._folder, "lock"), mode=0o640, allow_read_only=True)

    @property
    def held(self) -> bool:
        """Whether this process has it."""
        return self._lock.held

    @property
    def descriptor(self) -> int | None:
        """
        The open file that is locked, ``None`` where it is not. Who inherits it holds the lock too: it is free
        when all of them have ended.
        """
        return self._lock.descriptor

    def acquire(self, patience: float = 5.0) -> None:
        """
        Take the lock. Where the process that took it has ended, and others hold on to it that it has started,
        these are about to end too: for them it waits up to ``patience`` seconds.

        :raises StoreLocked: another process has it.
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
            self._lock.acquire(patience, worth_waiting=_has_ended)
        except FileLockedError as error:
            raise StoreLocked(_refusal(self._root, error.holder)) from error

    def close(self) -> None:
        """Give the lock back. May be called twice."""
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
