"""
A secret of this cache that outlasts a restart and is the same in all workers.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

from twisted.logger import Logger

from contentcache.storage.openfile import make_folders

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
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return os.read(descriptor, _SIZE + 1)
    finally:
        os.close(descriptor)


def _make(path: Path) -> None:
    """
    Written beside and linked into place: whoever finds it finds all of it, and who comes second reads that.
    """
    make_folders(str(path.parent))
    beside = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(_SIZE))
        try:
            os.link(beside, path)
        except FileExistsError:
            if len(_read(path)) != _SIZE:  # cut short by a full disk
                os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _passing(path: Path, error: OSError) -> bytes:
    _log.warn(
        "secret not kept path={path} reason={error}: next pages of lists begin anew after a restart",
        path=str(path),
        error=error.strerror or str(error),
    )
    return secrets.token_bytes(_SIZE)
