"""Paths of Unix sockets: short enough for the kernel, and whether one was left behind."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

#: Bytes that the kernel takes for a path (``sun_path``, unix(7)).
LONGEST_SOCKET: Final = 107


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
