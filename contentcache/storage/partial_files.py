"""
Names of partial files, one for each digest and origin, and the notes beside them.

What one origin sent before it was verified is never resumed, or read, for another one. A note that is lost
costs no more than to find out again what it says.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
from collections.abc import Sequence
from typing import Final

from contentcache.core.digest import Digest
from contentcache.core.errors import DigestInvalid
from contentcache.persist.atomic_file import read_bounded, write_atomically

#: Suffix of the note that says which bytes of a partial file are there.
NOTE: Final = ".held"
#: Most runs of a note, which are those nearest to the start.
MOST_RUNS: Final = 20_000
#: Most bytes of a note.
LARGEST_NOTE: Final = 1 << 20
#: A link, another thing that is no file, or more than :data:`LARGEST_NOTE` bytes.
_NO_NOTE: Final = frozenset({errno.ELOOP, errno.EINVAL, errno.EISDIR, errno.ENXIO, errno.EFBIG})
_TAG_DIGITS: Final = 32
_NAME: Final = re.compile(r"([0-9a-f]{64,128})\.([0-9a-f]{32})")


def origin_tag(origin: str) -> str:
    """
    What stands for an origin in a file's name: 32 hexadecimal digits, whatever its URL is.

    >>> origin_tag("https://registry.example.com")
    '0e49772fc5b845a92fa6c2ed68734ea1'
    """
    return hashlib.sha256(origin.encode("utf-8", "surrogateescape")).hexdigest()[:_TAG_DIGITS]


def partial_name(digest: Digest, tag: str) -> str:
    """The name of a partial file in the folder of its digest's algorithm."""
    return f"{digest.hex}.{tag}"


def read_name(algorithm: str, name: str) -> tuple[Digest, str] | None:
    """
    The digest and the origin's tag in a name, ``None`` if it is no partial file's: one of an earlier version,
    which says nothing of the origin, or somebody else's.

    >>> read_name("sha256", partial_name(Digest.of(b""), origin_tag("https://a"))) is None
    False
    >>> read_name("sha256", Digest.of(b"").hex) is None
    True
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    try:
        return Digest.parse(f"{algorithm}:{match[1]}"), match[2]
    except DigestInvalid:
        return None


def write_runs(runs: Sequence[tuple[int, int]]) -> bytes:
    """A note of the runs of bytes that a partial file has."""
    return json.dumps(list(runs[:MOST_RUNS])).encode("ascii")


def read_runs(note: bytes, size: int) -> Sequence[tuple[int, int]] | None:
    """
    The runs in a note of a partial file of ``size`` bytes, ``None`` if it is no such note.

    >>> read_runs(write_runs([(0, 5), (8, 10)]), 10)
    ((0, 5), (8, 10))
    >>> read_runs(b"[[0, 11]]", 10), read_runs(b"[[0, 0.5]]", 10), read_runs(b"[" * 100_000, 10)
    (None, None, None)
    """
    try:
        runs = json.loads(note)
    except (ValueError, RecursionError):
        return None
    if not isinstance(runs, list) or len(runs) > MOST_RUNS:
        return None
    if not all(_is_run(run, size) for run in runs):
        return None
    return tuple((start, stop) for start, stop in runs)


def _is_run(run: object, size: int) -> bool:
    if not (isinstance(run, list) and len(run) == 2 and all(type(bound) is int for bound in run)):  # noqa: PLR2004
        return False
    start, stop = run
    return bool(0 <= start < stop <= size)


def read_note(path: str) -> bytes | None:
    """
    What is in a note; ``None`` for a link, a pipe, a folder, and for more than :data:`LARGEST_NOTE` bytes.

    :raises FileNotFoundError: there is none.
    :raises OSError: the disk fails.
    """
    try:
        return read_bounded(path, LARGEST_NOTE)
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
