"""Files that the section ``auth`` names."""

from __future__ import annotations

from typing import Final

from contentcache.auth.interfaces import AuthFault
from contentcache.persist.atomic_file import UnusableFileError, read_configured

#: The largest file that is read, in bytes: a mistaken path may lead to anything.
LARGEST: Final = 8 << 20


def read_file(path: str) -> bytes:
    """
    The content of a file.

    :raises AuthFault: it cannot be read, or is too large.
    """
    try:
        return read_configured(path, LARGEST)
    except UnusableFileError as error:
        raise AuthFault(path, error.message) from error
