"""
How many connections and downloads the limit of file descriptors (``RLIMIT_NOFILE``) allows.

The descriptors are divided before they are needed, so that none is missing in the middle of a response: some for
the daemon itself, the others for downloads and connections, each with as many as it can ever have open.
"""

from __future__ import annotations

from typing import Final

from attrs import frozen

#: For the index, its journal, log files, name lookups, the debug address and commands.
_OWN: Final = 16
#: For a download: the partial file, its connection, that of a parallel range.
_OF_DOWNLOAD: Final = 3
#: For a client: its connection, the blob's file, a request upstream.
_OF_CONNECTION: Final = 3
#: Downloads may have one part in so many.
_PART_OF_DOWNLOADS: Final = 2


@frozen
class Fitting:
    """The number of connections, of downloads, and of further connections that are answered with 503."""

    connections: int
    fetches: int
    turned_away: int


def fit(free: int, *, connections: int, fetches: int, turned_away: int) -> Fitting:
    """
    As many as are wanted, or as ``free`` descriptors allow; at least one of each.

    >>> fit(20000, connections=4096, fetches=256, turned_away=64)
    Fitting(connections=4096, fetches=256, turned_away=64)
    >>> fit(50, connections=4096, fetches=256, turned_away=64)
    Fitting(connections=5, fetches=5, turned_away=3)
    """
    left = max(0, free - _OWN)
    fetches = max(1, min(fetches, left // _PART_OF_DOWNLOADS // _OF_DOWNLOAD))
    left -= fetches * _OF_DOWNLOAD
    turned_away = max(1, min(turned_away, left // (2 * _OF_CONNECTION)))
    connections = max(1, min(connections, (left - turned_away) // _OF_CONNECTION))
    return Fitting(connections, fetches, turned_away)
