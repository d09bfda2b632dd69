"""
Files that hold keys: written whole, read by nobody else, and put aside rather than overwritten where they are
damaged.
"""

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

#: How the names of files end until they are whole.
HALF: Final = ".half"
#: What others may do with a file.
_OTHERS: Final = 0o077
_LARGEST: Final = 1 << 20
#: More than a key, a certificate with a long chain and all notes of a host take together, in bytes.
_ROOM: Final = 64 << 10

#: What to do where the rights of the folder are not the matter.
_REMEDIES: Final = {
    errno.ENOSPC: "make room on the disk of letsencrypt.cachefile; certificates in use stay in use",
    errno.EDQUOT: "raise the quota of the daemon's account for letsencrypt.cachefile, or make room in it",
    errno.EROFS: "mount the disk of letsencrypt.cachefile so that it can be written",
    errno.EIO: "the disk of letsencrypt.cachefile fails: look into the kernel's log",
}

_log = Logger(namespace="contentcache")


def read(path: Path, *, is_ours: bool) -> bytes | None:
    """
    What is in a file, ``None`` where there is none. One that ``is_ours`` is not left to others.

    :raises CertificateStoreError: it cannot be read.
    """
    try:
        content = read_bounded(path, _LARGEST, follow_links=True)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno != errno.EFBIG:
            raise fault_of(error, path, "read") from error
        content = b""  # no file of ours is so large: it is damaged
    if is_ours:
        narrow(path, _OTHERS)
    return content


def write(path: Path, content: bytes) -> None:
    """
    Atomically: either the old content is there, or the whole new one, on the disk.

    :raises CertificateStoreError: it cannot be written.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}{HALF}")
    try:
        make_folders(path.parent, 0o700)
        write_atomically(path, content, mode=0o600, beside=beside)
    except OSError as error:
        raise fault_of(error, path, "written") from error


def probe(folder: Path) -> None:
    """
    Write so much that all that comes of an order has room, and take it away again.

    :raises OSError: it cannot be written.
    """
    path = folder / f".{secrets.token_hex(4)}{HALF}"
    try:
        create_file(path, bytes(_ROOM), mode=0o600)
    finally:
        path.unlink(missing_ok=True)


def put_aside(path: Path, now: float, damage: str, next_step: str) -> None:
    """
    Rename a file that cannot be used, and say so.

    :raises CertificateStoreError: it cannot be renamed.
    """
    aside = path.with_name(f"{path.name}.damaged-{int(now)}-{secrets.token_hex(2)}")
    try:
        path.rename(aside)
    except OSError as error:
        raise fault_of(error, path, "put aside, though it is damaged") from error
    _log.error(
        "{path} cannot be used: {damage}; it is put aside as {aside}, and {next_step}",
        path=str(path),
        damage=damage,
        aside=aside.name,
        next_step=next_step,
    )


def narrow(path: Path, rights: int) -> None:
    """
    Take such ``rights`` of others away, and say so: a copy from elsewhere may have brought them. A folder in
    which anybody may write, but change nothing of others, stays as it is.
    """
    with suppress(OSError):
        mode = stat.S_IMODE(path.stat().st_mode)
        if not mode & rights or mode & stat.S_ISVTX:
            return
        _log.warn(
            "others had rights to {path}, whose mode was {before:o}; it is {after:o} now",
            path=str(path),
            before=mode,
            after=mode & ~rights,
        )
        path.chmod(mode & ~rights)


def fault_of(error: OSError, path: Path, what: str) -> CertificateStoreError:
    """
    What cannot be done with a file, and what to do.
    """
    remedy = _REMEDIES.get(
        error.errno or 0,
        "the folder letsencrypt.cachefile must belong to the account that the daemon runs under",
    )
    return CertificateStoreError(f"{path} cannot be {what}: {error.strerror or error}", remedy)
