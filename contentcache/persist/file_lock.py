"""A lock between processes: ``flock`` on a file that names its holder."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

_POLL_INTERVAL: Final = 0.02
#: What file systems without locks say.
_UNSUPPORTED: Final = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS})


class FileLockedError(Exception):
    """Another process holds the lock. ``holder`` is its pid, ``None`` where the file does not say."""

    def __init__(self, path: str, holder: int | None) -> None:
        super().__init__(f"{path} is locked by {process_name(holder)}")
        self.holder = holder


class FileLock:
    """
    The exclusive lock on the file at ``path``, which contains the pid of the process that acquired it.

    The kernel releases it when the process ends, however it ends. A process that inherits the descriptor
    holds the lock too: it is free when all of them have closed it. The file is never deleted: then two
    processes could lock two different files. Everything except the constructor blocks on the disk.

    :param mode: of the file, where it is made: whoever can open it can lock it.
    :param allow_read_only: on a disk that is read-only, lock the file that is there; nobody signs it.
    :param allow_unsupported: on a file system without locks, :meth:`acquire` succeeds for everybody.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        mode: int,
        allow_read_only: bool = False,
        allow_unsupported: bool = False,
    ) -> None:
        self._path = os.fspath(path)
        self._mode = mode
        self._allow_read_only = allow_read_only
        self._allow_unsupported = allow_unsupported
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        """Whether this process acquired it."""
        return self._descriptor is not None

    @property
    def descriptor(self) -> int | None:
        """The open file that is locked, ``None`` where it is not."""
        return self._descriptor

    def acquire(
        self, timeout: float | None = 0.0, *, worth_waiting: Callable[[int | None], bool] | None = None
    ) -> None:
        """
        Acquire the lock; nothing happens where it is held already.

        :param timeout: seconds to wait while another process holds it; ``None``: as long as it takes.
        :param worth_waiting: called with the pid of the holder, ``None`` where that is not known; ``False``
            ends the wait at once. Not called where ``timeout`` is ``None``.
        :raises FileLockedError: another process still holds it.
        :raises OSError: the file cannot be opened or locked.
        """
        if self._descriptor is not None:
            return
        descriptor = self._open()
        try:
            self._lock(descriptor, timeout, worth_waiting)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        _sign(descriptor, f"{os.getpid()}\n")

    def release(self) -> None:
        """Release it; may be called twice."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            _sign(descriptor, "")
            os.close(descriptor)

    def _open(self) -> int:
        flags = os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            return os.open(self._path, flags | os.O_RDWR | os.O_CREAT, self._mode)
        except OSError as error:
            if error.errno != errno.EROFS or not self._allow_read_only:
                raise
            return os.open(self._path, flags | os.O_RDONLY)

    def _lock(
        self, descriptor: int, timeout: float | None, worth_waiting: Callable[[int | None], bool] | None
    ) -> None:
        deadline = time.monotonic() + (timeout or 0.0)
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if timeout is None else fcntl.LOCK_NB))
            except BlockingIOError as error:
                holder = _holder(descriptor)
                is_hopeless = worth_waiting is not None and not worth_waiting(holder)
                if is_hopeless or time.monotonic() >= deadline:
                    raise FileLockedError(self._path, holder) from error
                time.sleep(_POLL_INTERVAL)
            except OSError as error:
                if error.errno in _UNSUPPORTED and self._allow_unsupported:
                    return
                raise
            else:
                return


def is_running(pid: int) -> bool:
    """Whether there is a process with this number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass  # another account's process, or a number that no process has
    return True


def process_name(holder: int | None) -> str:
    """
    What to call the holder of a lock in a message.

    >>> process_name(17), process_name(None)
    ('process 17', 'another process')
    """
    return "another process" if holder is None else f"process {holder}"


def _sign(descriptor: int, text: str) -> None:
    with suppress(OSError):  # the text is for messages only: a full disk does not keep anybody from locking
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode("ascii"), 0)


def _holder(descriptor: int) -> int | None:
    try:
        return int(os.pread(descriptor, 20, 0))
    except (OSError, ValueError):
        return None
