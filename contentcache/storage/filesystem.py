"""The store on a disk: blobs in the registry's own layout, so that a registry's directory is a warm cache."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final

from twisted.logger import Logger

from contentcache.core.digest import HEX_LENGTHS, Digest
from contentcache.core.errors import BlobUnknown, DigestInvalid
from contentcache.persist.atomic_file import make_folders, open_regular
from contentcache.storage.blob_file import (
    DiskFile,
    DiskPartial,
    remove_if_empty,
)
from contentcache.storage.interfaces import StoredFile, StoredPartial
from contentcache.storage.partial_files import NOTE, origin_tag, partial_name, read_name

#: Errors of ``open`` where there is no blob: nothing, a file on the way, a symbolic link, no regular file.
_NO_BLOB: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EINVAL})

#: Bytes in a unit of ``st_blocks`` (POSIX leaves it open; Linux and the BSDs agree).
_STAT_BLOCK: Final = 512


class FilesystemStore:
    """
    A :class:`~contentcache.storage.interfaces.Store` under ``root``.

    Blobs are ``docker/registry/v2/blobs/<algorithm>/<first two digits>/<digits>/data``, partial files
    ``contentcache/partial/<algorithm>/<digits>.<tag of the origin>``. Nothing made here can be read by
    others. Where it is ``shared``, other workers read files that are being downloaded.
    """

    _log = Logger()

    def __init__(self, root: str, *, shared: bool = False) -> None:
        self._root = os.path.abspath(root)
        self._shared = shared
        self._blobs = os.path.join(self._root, "docker", "registry", "v2", "blobs")
        self._partial = os.path.join(self._root, "contentcache", "partial")
        # Starts no thread before it is needed.
        self._closer = ThreadPoolExecutor(1, "close-unlinked")

    def prepare(self) -> None:
        """Make the folders. Without it they are made when they are needed."""
        make_folders(self._blobs)
        make_folders(self._partial)

    def tidy(self) -> None:
        """
        Delete files that no download can resume: partial files of earlier versions, which do not name their
        origin, and notes that were cut short by a kill. To be called once the root directory is locked.
        """
        for algorithm in HEX_LENGTHS:
            for entry in self._entries(os.path.join(self._partial, algorithm)):
                if read_name(algorithm, entry.name.removesuffix(NOTE)) is None:
                    with suppress(OSError):
                        os.unlink(entry.path)

    def open(self, digest: Digest) -> DiskFile:
        """
        A blob of the store.

        :raises BlobUnknown: there is none.
        """
        return DiskFile(self._open_blob(digest), self._close_file)

    def from_descriptor(self, descriptor: int) -> DiskFile:
        """An open file of this store that another worker has passed on; it is closed as our own."""
        return DiskFile(descriptor, self._close_file)

    def adopt(self, digest: Digest) -> DiskPartial:
        """
        A blob of the store that is not known to be verified. It is not writable.

        ``commit`` fsyncs it where it is: the hash was of pages in memory, the disk may not have them.

        :raises BlobUnknown: there is none.
        """
        home = self._home(digest)
        return DiskPartial(self._open_blob(digest), self._close_file, home, home)

    def resume(self, digest: Digest, origin: str) -> DiskPartial:
        """The partial file of ``digest`` from ``origin``, made if there is none."""
        name = self._partial_path(digest, origin_tag(origin))
        try:
            descriptor = open_regular(name, os.O_RDWR | os.O_CREAT)
        except FileNotFoundError:
            make_folders(os.path.dirname(name))
            descriptor = open_regular(name, os.O_RDWR | os.O_CREAT)
        return DiskPartial(descriptor, self._close_file, name, self._home(digest), shared=self._shared)

    def delete(self, digest: Digest) -> None:
        """Delete a blob and its folder; nothing happens if there is none."""
        home = self._home(digest)
        with suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(home)
        remove_if_empty(os.path.dirname(home))

    def delete_partial(self, digest: Digest, tag: str) -> None:
        """Delete a partial file and its note; nothing happens if there is none."""
        name = self._partial_path(digest, tag)
        for path in (name, name + NOTE):
            with suppress(FileNotFoundError, NotADirectoryError):
                os.unlink(path)

    def blobs(self) -> Iterator[StoredFile]:
        """Every blob that is here, in no order. Files that are no blobs are passed over."""
        for algorithm in HEX_LENGTHS:
            for shard in self._folders(os.path.join(self._blobs, algorithm)):
                for folder in self._folders(shard.path):
                    if folder.name[:2] != shard.name:
                        continue
                    found = self._stored(algorithm, folder.name, os.path.join(folder.path, "data"))
                    if found is not None:
                        yield found

    def partials(self) -> Iterator[StoredPartial]:
        """Every partial file that is here, with the bytes that it takes on the disk: it has holes."""
        for algorithm in HEX_LENGTHS:
            for entry in self._entries(os.path.join(self._partial, algorithm)):
                named = read_name(algorithm, entry.name)
                status = None if named is None else self._status(entry.path)
                if named is not None and status is not None:
                    size = min(status.st_size, status.st_blocks * _STAT_BLOCK)
                    yield StoredPartial(*named, size, status.st_mtime)

    def free(self) -> int:
        """Bytes that an ordinary user can still write here."""
        space = os.statvfs(self._root)
        return space.f_bavail * space.f_frsize

    def _home(self, digest: Digest) -> str:
        return os.path.join(self._blobs, digest.algorithm, digest.hex[:2], digest.hex, "data")

    def _partial_path(self, digest: Digest, tag: str) -> str:
        return os.path.join(self._partial, digest.algorithm, partial_name(digest, tag))

    def _open_blob(self, digest: Digest) -> int:
        try:
            return open_regular(self._home(digest), os.O_RDONLY)
        except OSError as error:
            if error.errno in _NO_BLOB:
                raise BlobUnknown(f"{digest} is not stored here") from error
            raise

    def _close_file(self, descriptor: int) -> None:
        # The last close of a deleted file blocks until the disk has freed its blocks: for gigabytes too long for
        # the reactor's thread. (RuntimeError: at exit.)
        with suppress(OSError, RuntimeError):
            if os.fstat(descriptor).st_nlink == 0:
                self._closer.submit(_close, descriptor)
                return
        _close(descriptor)

    def _stored(self, algorithm: str, digits: str, path: str) -> StoredFile | None:
        try:
            digest = Digest.parse(f"{algorithm}:{digits}")
        except DigestInvalid:
            return None
        status = self._status(path)
        return None if status is None else StoredFile(digest, status.st_size, status.st_mtime)

    def _status(self, path: str) -> os.stat_result | None:
        """What a regular file takes; ``None`` for whatever else is there."""
        try:
            status = os.stat(path, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            self._log.warn("path not readable, skipped", path=path, reason=error.strerror)
            return None
        return status if stat.S_ISREG(status.st_mode) else None

    def _folders(self, path: str) -> Iterator[os.DirEntry[str]]:
        for entry in self._entries(path):
            with suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    yield entry

    def _entries(self, path: str) -> Iterator[os.DirEntry[str]]:
        try:
            with os.scandir(path) as entries:
                yield from entries
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            self._log.warn("path not readable, skipped", path=path, reason=error.strerror)


def _close(descriptor: int) -> None:
    with suppress(OSError):
        os.close(descriptor)
