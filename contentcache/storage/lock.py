"""
One daemon to a root directory.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from contentcache.storage.errors import StoreLocked
from contentcache.storage.openfile import make_folders

_STEP: Final = 0.02


class RootLock:
    """
    The exclusive right to write under ``root``: an ``flock`` on ``<root>/contentcache/lock``.

    The kernel gives it back when the process ends, however it ends; the file stays, since to take it
    away would let two daemons lock two different files. The constructor does not touch the disk.
    """

    def __init__(self, root: str) -> None:
        self._root = os.path.abspath(root)
        self._path = os.path.join(self._root, "contentcache", "lock")
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        """Whether this process has it."""
        return self._descriptor is not None

    @property
    def descriptor(self) -> int | None:
        """
        The open file that is locked, ``None`` where it is not. Who inherits it holds the lock too: it is free
        when all of them have ended.
        """
        return self._descriptor

    def acquire(self, patience: float = 5.0) -> None:
        """
        Take the lock. Where the process that took it has ended, and others hold on to it that it has started,
        these are about to end too: for them it waits up to ``patience`` seconds.

        :raises StoreLocked: another process has it.
        :raises OSError: the disk does not allow to try.
        """
        if self._descriptor is not None:
            return
        descriptor = self._open()
        try:
            _lock(descriptor, time.monotonic() + patience)
        except BlockingIOError as error:
            sentence = _refusal(self._root, holder_of(descriptor))
            os.close(descriptor)
            raise StoreLocked(sentence) from error
        except OSError:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        sign(descriptor, f"{os.getpid()}\n")

    def close(self) -> None:
        """Give the lock back. May be called twice."""
        if self._descriptor is not None:
            sign(self._descriptor, "")
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> int:
        flags = os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            make_folders(os.path.dirname(self._path))
            return os.open(self._path, flags | os.O_RDWR | os.O_CREAT, 0o640)
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            # A disk that became read-only can still be locked, if the file was there before.
            return os.open(self._path, flags | os.O_RDONLY)


def _lock(descriptor: int, until: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = holder_of(descriptor)
            if holder is None or _lives(holder) or time.monotonic() >= until:
                raise
            time.sleep(_STEP)
        else:
            return


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass  # it is somebody else's, or nobody's number
    return True


def sign(descriptor: int, text: str) -> None:
    """
    Write into a locked file, as a courtesy to whoever finds it so: a full disk is no reason to refuse.
    """
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode("ascii"), 0)


def holder_of(descriptor: int) -> int | None:
    """
    The process that has signed a locked file, ``None`` where that cannot be told.
    """
    try:
        return int(os.pread(descriptor, 20, 0))
    except (OSError, ValueError):
        return None


def _refusal(root: str, holder: int | None) -> str:
    """
    >>> print(_refusal("/var/lib/registry", 17))
    /var/lib/registry is in use by process 17: stop it, or give this daemon another rootdirectory
    """
    whom = "another process" if holder is None else f"process {holder}"
    return f"{root} is in use by {whom}: stop it, or give this daemon another rootdirectory"
