"""
Small files that are written whole or not at all, and read up to a bound. Everything here blocks.

Another program may put a symbolic link, a named pipe or gigabytes into the place of a file. The daemon's own
files are opened with :func:`open_regular`: so it never reads or writes elsewhere, or waits.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

#: Beside a file: its new content, until that is whole.
_BESIDE = ".new"


class UnusableFileError(Exception):
    """A file cannot be used. ``message`` is a sentence that names it."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(message)
        self.path = path
        self.message = message


def open_regular(path: str | Path, flags: int, mode: int = 0o640) -> int:
    """
    A descriptor of the regular file at ``path``, not of what a symbolic link there points to.

    :raises OSError: ``ELOOP`` for a symbolic link, ``EINVAL`` for whatever else is no regular file.
    """
    # O_NONBLOCK: to open a named pipe must not block the thread. It has no effect on regular files.
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, mode)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
    return descriptor


def read_bounded(path: str | Path, limit: int, *, follow_links: bool = False) -> bytes:
    """
    The content of a file of at most ``limit`` bytes.

    :param follow_links: for files that an operator chose: links and devices are theirs to use. A named pipe
        is refused, since whoever reads one waits for somebody to write.
    :raises OSError: it cannot be read; ``EFBIG`` where it is larger; as :func:`open_regular` without links.
    :raises ValueError: there is a NUL in the path.
    """
    with open(_open_chosen(path) if follow_links else open_regular(path, os.O_RDONLY), "rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), os.fspath(path))
    return content


def _open_chosen(path: str | Path) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISDIR(mode):
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        raise OSError(errno.EINVAL, "it is a named pipe", os.fspath(path))
    return descriptor


def read_configured(path: str, limit: int) -> bytes:
    """
    The content of a file that an operator named, as :func:`read_bounded`.

    :raises UnusableFileError: it cannot be read, or is larger than ``limit`` bytes.
    """
    try:
        return read_bounded(path, limit, follow_links=True)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.EFBIG:
            message = f"{path} is too large, more than {limit} bytes: is this the right file?"
        else:
            message = f"{path} cannot be read: {getattr(error, 'strerror', None) or error}"
        raise UnusableFileError(path, message) from error


def create_file(path: str | Path, content: bytes, *, mode: int, fsync: bool = True) -> None:
    """
    Write a file that is not there yet; with ``fsync`` its bytes are on the disk at the end. Not atomic.

    :raises FileExistsError: something is there.
    :raises OSError: the disk fails; part of the file may be left.
    """
    with open(open_regular(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
        if fsync:
            file.flush()
            os.fsync(file.fileno())


def write_atomically(
    path: str | Path,
    content: bytes,
    *,
    mode: int,
    fsync: bool = True,
    beside: str | Path | None = None,
    modified: float | None = None,
) -> None:
    """
    Replace the content of a file. Readers find all of the old content or all of the new one, also after a
    kill; with ``fsync`` also after a loss of power, and the new one from the end of this call on.

    :param beside: where the content is written first, in the same folder, ``<path>.new`` by default. Writers
        that may run at once need different ones. What a killed writer left there is replaced.
    :param modified: the file's time of modification, in seconds since the epoch.
    :raises OSError: the disk fails. The old content is in place, unless only the folder was not fsynced.
    """
    beside = f"{path}{_BESIDE}" if beside is None else beside
    try:
        with suppress(FileNotFoundError):
            os.unlink(beside)
        create_file(beside, content, mode=mode, fsync=fsync)
        if modified is not None:
            os.utime(beside, (modified, modified))
        os.replace(beside, path)
    except OSError:
        with suppress(OSError):
            os.unlink(beside)
        raise
    if fsync:
        fsync_folder(os.path.dirname(path))


def create_atomically(path: str | Path, content: bytes, *, mode: int, beside: str | Path) -> None:
    """
    Make a file where there is none. One of several writers succeeds; readers find all of it. Not fsynced.

    :param beside: as for :func:`write_atomically`, and different for each writer.
    :raises FileExistsError: another writer was first, or the file was there before.
    :raises OSError: the disk fails.
    """
    try:
        create_file(beside, content, mode=mode, fsync=False)
        os.link(beside, path)
    finally:
        with suppress(OSError):
            os.unlink(beside)


def replace_durably(source: str | Path, target: str | Path) -> None:
    """
    Rename a file within its folder, in the place of ``target``, and fsync the folder.

    :raises OSError: the disk fails.
    """
    os.replace(source, target)
    fsync_folder(os.path.dirname(target))


def make_folders(path: str | Path, mode: int = 0o750) -> None:
    """
    Make a folder and the missing ones above it, each fsynced in the one that it is in. Others keep their mode.

    :raises OSError: the disk fails, or what is above it is no folder.
    """
    path = os.path.abspath(path)
    folder = os.path.dirname(path)
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        return
    except FileNotFoundError:
        make_folders(folder, mode)
        with suppress(FileExistsError):
            os.mkdir(path, mode)
    fsync_folder(folder)


def fsync_folder(path: str | Path) -> None:
    """Put the names in a folder on the disk."""
    descriptor = os.open(path or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
