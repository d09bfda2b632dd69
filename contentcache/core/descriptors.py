"""
How many clients and downloads fit into the file descriptors that a process may have.

Descriptors are shared out before anybody needs one, so that none is missing in the middle of an answer:
some for
what the daemon itself opens, the others for downloads and connections. Each takes as many as it can ever
hold.
"""

from __future__ import annotations

from typing import Final

from attrs import frozen

#: For the index, its journal, log files, name lookups, the debug address and commands.
_OWN: Final = 16
#: Of a download: the partial file, its stream, a range beside it.
_OF_DOWNLOAD: Final = 3
#: Of a client: its connection, the blob's file, a question upstream.
_OF_CONNECTION: Final = 3
#: What downloads may take at most.
_PART_OF_DOWNLOADS: Final = 2


@frozen
class Fitting:
    """How many connections and downloads there may be, and how many connections beyond that, to be told so."""

    connections: int
    fetches: int
    turned_away: int


def fit(free: int, *, connections: int, fetches: int, turned_away: int) -> Fitting:
    """
    As many as were asked for, or as fit into ``free`` descriptors. At least one of each.

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
