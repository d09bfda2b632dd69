"""
One daemon to a folder of certificates.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from contentcache.acme.errors import CertificateStoreError
from contentcache.persist.file_lock import FileLock, FileLockedError, process_name

_NAME: Final = "lock"


class CertificateStoreInUseError(CertificateStoreError):
    """Another process keeps its certificates in the folder."""


class FolderLock:
    """The right to write into ``folder``: a lock on a file in it, where the file system has locks."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = FileLock(folder / _NAME, mode=0o600, allow_unsupported=True)

    @property
    def held(self) -> bool:
        """Whether we have it."""
        return self._lock.held

    def take(self) -> None:
        """
        Take it, without waiting; the folder has to be there.

        :raises CertificateStoreInUseError: another process has it.
        :raises OSError: the file cannot be made.
        """
        try:
            self._lock.acquire()
        except FileLockedError as error:
            raise CertificateStoreInUseError(
                f"{self._folder} is in use by {process_name(error.holder)}",
                "stop that one, or give this daemon another letsencrypt.cachefile",
            ) from error

    def give_back(self) -> None:
        """Give it back. May be called twice."""
        self._lock.release()
