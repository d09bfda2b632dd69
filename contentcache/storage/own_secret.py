"""A secret of this cache that outlasts a restart and is the same in all workers."""

from __future__ import annotations

import errno
import secrets
from pathlib import Path
from typing import Final

from twisted.logger import Logger

from contentcache.persist.atomic_file import create_atomically, make_folders, read_bounded, write_atomically

_SIZE: Final = 32
_log = Logger()


def read_or_make_secret(path: Path) -> bytes:
    """
    The secret in the file at ``path``, which is made where there is none.

    Where it can neither be read nor made it is one that ends with this process, with a line in the log.
    Blocks on the disk.
    """
    for _ in range(2):
        try:
            found = _read(path)
        except FileNotFoundError:
            found = b""
        except OSError as error:
            return _passing(path, error)
        if len(found) == _SIZE:
            return found
        try:
            _make(path)
        except OSError as error:
            return _passing(path, error)
    return _passing(path, OSError("it is not what was written"))


def _read(path: Path) -> bytes:
    try:
        return read_bounded(path, _SIZE)
    except OSError as error:
        if error.errno != errno.EFBIG:
            raise
        return b""  # not what was written


def _make(path: Path) -> None:
    """Whoever finds it finds all of it, and who comes second reads that."""
    make_folders(path.parent)
    beside = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    content = secrets.token_bytes(_SIZE)
    try:
        create_atomically(path, content, mode=0o600, beside=beside)
    except FileExistsError:
        if len(_read(path)) != _SIZE:  # cut short by a full disk
            write_atomically(path, content, mode=0o600, fsync=False, beside=beside)


def _passing(path: Path, error: OSError) -> bytes:
    _log.warn(
        "secret not kept path={path} reason={error}: next pages of lists begin anew after a restart",
        path=str(path),
        error=error.strerror or str(error),
    )
    return secrets.token_bytes(_SIZE)
