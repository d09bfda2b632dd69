"""Files of the certificate store: written atomically, readable by one account, renamed where they are damaged."""

from __future__ import annotations

import errno
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from twisted.logger import Logger

from contentcache.acme.errors import CertificateStoreError
from contentcache.persist.atomic_file import create_file, make_folders, read_bounded, write_atomically

#: Suffix of temporary files.
TEMPORARY_SUFFIX: Final = ".half"
#: Permissions of other accounts.
_OTHERS: Final = 0o077
_MAX_SIZE: Final = 1 << 20
#: Bytes for a key, a certificate with a long chain and all documents of a host, and more.
_PROBE_SIZE: Final = 64 << 10

#: What to do, by the error of the disk; otherwise the owner of the directory is wrong.
_REMEDIES: Final = {
    errno.ENOSPC: "make room on the disk of letsencrypt.cachefile; certificates in use stay in use",
    errno.EDQUOT: "raise the quota of the daemon's account for letsencrypt.cachefile, or make room in it",
    errno.EROFS: "mount the disk of letsencrypt.cachefile so that it can be written",
    errno.EIO: "the disk of letsencrypt.cachefile fails: look into the kernel's log",
}
_WRONG_OWNER: Final = "the folder letsencrypt.cachefile must belong to the account that the daemon runs under"

_log = Logger(namespace="contentcache")


def read(path: Path, *, restrict: bool) -> bytes | None:
    """
    The content of a file, ``None`` where there is none; with ``restrict`` permissions of others are removed.

    :raises CertificateStoreError: it cannot be read.
    """
    try:
        content = read_bounded(path, _MAX_SIZE, follow_links=True)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno != errno.EFBIG:
            raise store_error(error, path, "read") from error
        content = b""  # no file of the store is so large: it is damaged
    if restrict:
        remove_permissions(path, _OTHERS)
    return content


def write(path: Path, content: bytes) -> None:
    """
    Write a file atomically and durably.

    :raises CertificateStoreError: it cannot be written.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    try:
        make_folders(path.parent, 0o700)
        write_atomically(path, content, mode=0o600, beside=beside)
    except OSError as error:
        raise store_error(error, path, "written") from error


def probe(folder: Path) -> None:
    """
    Check that there is space for all files of an order, by writing and deleting a file.

    :raises OSError: it cannot be written.
    """
    path = folder / f".{secrets.token_hex(4)}{TEMPORARY_SUFFIX}"
    try:
        create_file(path, bytes(_PROBE_SIZE), mode=0o600)
    finally:
        path.unlink(missing_ok=True)


def quarantine(path: Path, now: float, damage: str, next_step: str) -> None:
    """
    Rename a damaged file, and log it.

    :raises CertificateStoreError: it cannot be renamed.
    """
    renamed = path.with_name(f"{path.name}.damaged-{int(now)}-{secrets.token_hex(2)}")
    try:
        path.rename(renamed)
    except OSError as error:
        raise store_error(error, path, "renamed, though it is damaged") from error
    _log.error(
        "stored file damaged, renamed", path=path, renamed_to=renamed.name, reason=damage, hint=next_step
    )


def remove_permissions(path: Path, permissions: int) -> None:
    """
    Remove permissions of other accounts, which a copied file may have, and log it.

    A directory with the sticky bit stays as it is: nobody can change the files of others there.
    """
    with suppress(OSError):
        mode = stat.S_IMODE(path.stat().st_mode)
        if not mode & permissions or mode & stat.S_ISVTX:
            return
        _log.warn(
            "permissions of other accounts removed",
            path=path,
            before=f"{mode:o}",
            after=f"{mode & ~permissions:o}",
        )
        path.chmod(mode & ~permissions)


def store_error(error: OSError, path: Path, what: str) -> CertificateStoreError:
    """The error of the disk with what cannot be done, and what to do."""
    remedy = _REMEDIES.get(error.errno or 0, _WRONG_OWNER)
    return CertificateStoreError(f"{path} cannot be {what}: {error.strerror or error}", remedy)
