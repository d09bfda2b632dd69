"""Small files in the store's folders: what is lost of them is only found out again."""

from __future__ import annotations

import errno
from typing import Final

from contentcache.persist.atomic_file import read_bounded, write_atomically

#: No note has more bytes.
LARGEST: Final = 1 << 20


#: A link, another thing that is no file, or more than :data:`LARGEST` bytes.
_NO_NOTE: Final = frozenset({errno.ELOOP, errno.EINVAL, errno.EISDIR, errno.ENXIO, errno.EFBIG})


def read_note(path: str) -> bytes | None:
    """
    What is in a note; ``None`` for a link, a pipe, a folder, and for more than :data:`LARGEST` bytes.

    :raises FileNotFoundError: there is none.
    :raises OSError: the disk fails.
    """
    try:
        return read_bounded(path, LARGEST)
    except OSError as error:
        if error.errno in _NO_NOTE:
            return None
        raise


def write_note(path: str, content: bytes) -> None:
    """
    Replace a note, whole or not at all, without an fsync.

    :raises OSError: the disk fails.
    """
    write_atomically(path, content, mode=0o640, fsync=False)
