"""
Negative cache: contents that no upstream of an origin has right, not to be downloaded again for a while.
"""

from __future__ import annotations

from typing import Final

from attrs import frozen

from contentcache.core.digest import Digest

#: Seconds of a first entry: a proxy's error page must not cost a minute.
FIRST: Final = 5.0
#: Seconds of the longest entry; after as long without a new failure the next entry is a first one again.
LONGEST: Final = 60.0
_MOST: Final = 10_000


@frozen
class _Entry:
    until: float
    seconds: float


class Disproved:
    """
    A bounded table, by origin and digest: what one origin has wrong, another may have right. Times are
    monotonic seconds.
    """

    def __init__(self) -> None:
        self._entries: dict[tuple[str, Digest], _Entry] = {}

    def add(self, origin: str, digest: Digest, now: float) -> float:
        """
        What came for ``digest`` from all hosts of ``origin`` was something else. Answers for how many seconds
        it is not asked for again: twice as many as the last time.

        >>> table = Disproved()
        >>> [table.add("https://a", Digest.of(b""), float(now)) for now in (0, 10, 30, 60, 130)]
        [5.0, 10.0, 20.0, 40.0, 60.0]
        """
        before = self._entries.pop((origin, digest), None)
        lately = before is not None and now < before.until + LONGEST
        seconds = min(before.seconds * 2, LONGEST) if before is not None and lately else FIRST
        self._entries[origin, digest] = _Entry(now + seconds, seconds)
        while len(self._entries) > _MOST:
            del self._entries[next(iter(self._entries))]
        return seconds

    def remove(self, origin: str, digest: Digest) -> None:
        """
        ``origin`` has it right after all.
        """
        self._entries.pop((origin, digest), None)

    def has(self, origin: str, digest: Digest, now: float) -> bool:
        """
        Whether ``origin`` has lately had it wrong.
        """
        entry = self._entries.get((origin, digest))
        return entry is not None and now < entry.until
