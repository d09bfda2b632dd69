"""Paths of Unix sockets: short enough for the kernel, whether one was left behind, and who may replace one."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

#: Bytes that the kernel takes for a path (``sun_path``, unix(7)).
LONGEST_SOCKET: Final = 107

_PRIVATE: Final = 0o700
_OTHERS_WRITE: Final = 0o022


@contextmanager
def short_path(path: str) -> Iterator[str]:
    """
    The path of a socket, short enough for the kernel however long that of its folder is.

    :raises OSError: the folder of a long path cannot be opened.
    """
    if len(os.fsencode(path)) <= LONGEST_SOCKET:
        yield path
        return
    folder, name = os.path.split(path)
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{opened}/{name}"
    finally:
        os.close(opened)


def is_stale(path: str) -> bool:
    """Whether there is a socket on which no process listens."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return False
    except FileNotFoundError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a process too busy to accept must not block this one
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:
            pass  # its backlog is full, or it is another process's that we may not use
        return False


def own_folder(folder: str) -> None:
    """
    Make a folder of mode 0700, also of one that is there.

    :raises OSError: it is not possible; the folder is another account's.
    """
    os.makedirs(folder, _PRIVATE, exist_ok=True)
    found = os.lstat(folder)
    if stat.S_ISLNK(found.st_mode):
        raise _unsafe(folder, "is a symbolic link: set http.admin to where it leads")
    if found.st_uid != os.geteuid():
        raise _unsafe(folder, "belongs to another account: give it to this one, or delete it")
    if stat.S_IMODE(found.st_mode) != _PRIVATE:
        os.chmod(folder, _PRIVATE)


def safe_folder(folder: str) -> None:
    """
    Make a folder of mode 0700; one that is there stays as it is.

    :raises OSError: it is not possible; other accounts may replace files in it.
    """
    os.makedirs(folder, _PRIVATE, exist_ok=True)
    mode = os.stat(folder).st_mode
    if mode & _OTHERS_WRITE and not mode & stat.S_ISVTX:
        raise _unsafe(folder, "can be written by other accounts: take that from them, or use a folder in it")


def _unsafe(folder: str, why: str) -> PermissionError:
    return PermissionError(errno.EPERM, f"{folder} {why}")
