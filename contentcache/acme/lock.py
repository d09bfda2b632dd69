"""
One daemon to a folder of certificates.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Final

from contentcache.acme.errors import CertificateStoreError
from contentcache.storage.lock import holder_of, sign

_NAME: Final = "lock"
#: File systems without locks: then nobody looks.
_NO_LOCKS: Final = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS})


class CertificateStoreInUseError(CertificateStoreError):
    """Another process keeps its certificates in the folder."""


class FolderLock:
    """
    The right to write into ``folder``: an ``flock`` on a file in it, which the kernel gives back however the
    process ends. The file stays, since to take it away would let two processes lock two files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        """Whether we have it."""
        return self._descriptor is not None

    def take(self) -> None:
        """
        Take it, without waiting; the folder has to be there.

        :raises CertificateStoreInUseError: another process has it.
        :raises OSError: the file cannot be made.
        """
        if self._descriptor is not None:
            return
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self._folder / _NAME, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = holder_of(descriptor)
            os.close(descriptor)
            whom = "another process" if holder is None else f"process {holder}"
            raise CertificateStoreInUseError(
                f"{self._folder} is in use by {whom}",
                "stop that one, or give this daemon another letsencrypt.cachefile",
            ) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(descriptor)
                raise
        self._descriptor = descriptor
        sign(descriptor, f"{os.getpid()}\n")

    def give_back(self) -> None:
        """Give it back. May be called twice."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)
