"""Which of several workers a content belongs to (rendezvous hashing)."""

from __future__ import annotations

import hashlib

from contentcache.core.digest import Digest


def owner(digest: Digest, workers: int) -> int:
    """
    The number of the worker, from 1 up to ``workers``, that fetches this content for all.

    Each worker draws a lot for each content, and the highest wins: with one worker more or less, only what is
    its own changes hands. A dead worker keeps what is its own, for it has a successor at once: were it handed
    to another one meanwhile, two could write the same file.

    >>> [owner(Digest.of(bytes([content])), 3) for content in range(8)]
    [1, 1, 3, 2, 2, 2, 1, 1]
    """
    return max(range(1, workers + 1), key=lambda number: _lot(digest, number))


def _lot(digest: Digest, number: int) -> bytes:
    return hashlib.blake2b(f"{number} {digest}".encode("ascii"), digest_size=8).digest()
