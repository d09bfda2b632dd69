"""Negative cache: contents that no upstream of an origin has right, not to be downloaded again for a while."""

from __future__ import annotations

from typing import Final

from attrs import frozen

from contentcache.core.digest import Digest
from contentcache.core.lru import LruCache

#: Seconds of a first entry: a proxy's error page must not cost a minute.
FIRST: Final = 5.0
#: Seconds of the longest entry; after as long without a new failure the next entry is a first one again.
LONGEST: Final = 60.0
_MOST: Final = 2_000
_MOST_CLIENTS: Final = 20


@frozen
class _Entry:
    until: float
    seconds: float


class NegativeCache:
    """
    A bounded table by origin, digest and client: another origin may deliver the right bytes, and what an origin
    shows to one client, a sign-in page, says nothing about others. Times are monotonic seconds.
    """

    def __init__(self) -> None:
        self._entries: LruCache[tuple[str, Digest], LruCache[bytes, _Entry]] = LruCache(_MOST)

    def add(self, origin: str, digest: Digest, client: bytes, now: float) -> float:
        """
        All hosts of ``origin`` had a digest mismatch for ``digest`` in the name of ``client``. Returns for how many
        seconds it is not requested again in that name: twice as many as the last time.

        >>> table = NegativeCache()
        >>> [table.add("https://a", Digest.of(b""), b"key", float(now)) for now in (0, 10, 30, 60, 130)]
        [5.0, 10.0, 20.0, 40.0, 60.0]
        """
        clients = self._entries.get((origin, digest)) or LruCache(_MOST_CLIENTS)
        before = clients.get(client)
        lately = before is not None and now < before.until + LONGEST
        seconds = min(before.seconds * 2, LONGEST) if before is not None and lately else FIRST
        clients.put(client, _Entry(now + seconds, seconds))
        self._entries.put((origin, digest), clients)
        return seconds

    def remove(self, origin: str, digest: Digest) -> None:
        """``origin`` has delivered the right bytes after all."""
        self._entries.remove((origin, digest))

    def has(self, origin: str, digest: Digest, client: bytes, now: float) -> bool:
        """Whether ``origin`` had a digest mismatch for this client lately."""
        clients = self._entries.get((origin, digest))
        entry = None if clients is None else clients.get(client)
        return entry is not None and now < entry.until
