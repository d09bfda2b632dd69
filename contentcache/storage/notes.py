"""
Small files of our own: opened without following links, regular, and bounded in size.

Whoever can write into the store's folders, by hand or through another program, must not make the daemon read
or write elsewhere, wait for a pipe, or take gigabytes into memory.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import Final

#: No note has more bytes.
LARGEST: Final = 1 << 20


def open_regular(path: str, flags: int) -> int:
    """
    A descriptor of the regular file at ``path``, not of what a symbolic link there points to.

    :raises OSError: ``ELOOP`` for a symbolic link, ``EINVAL`` for whatever else is no file.
    """
    # O_NONBLOCK: a named pipe in this place must not hang the thread. Files do not know it.
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o640)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", path)
    return descriptor


def read_note(path: str) -> bytes | None:
    """
    What is in a note; ``None`` for a link, a pipe, a folder, and for more than :data:`LARGEST` bytes.

    :raises FileNotFoundError: there is none.
    :raises OSError: the disk fails.
    """
    try:
        descriptor = open_regular(path, os.O_RDONLY)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.EINVAL, errno.EISDIR, errno.ENXIO}:
            return None
        raise
    with open(descriptor, "rb") as file:
        content = file.read(LARGEST + 1)
    return content if len(content) <= LARGEST else None


def write_note(path: str, content: bytes) -> None:
    """
    Put a note in the place of the one that is there, whole or not at all.

    :raises OSError: the disk fails.
    """
    fresh = f"{path}.new"
    with suppress(FileNotFoundError):
        os.unlink(fresh)
    descriptor = open_regular(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
        os.replace(fresh, path)
    except OSError:
        with suppress(OSError):
            os.unlink(fresh)
        raise
