"""
Contents that no upstream has right, not to be fetched again for a while.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from contentcache.core.digest import Digest

#: For so many seconds.
WHILE: Final = 60.0
_MOST: Final = 10_000


class Disproved:
    """
    A bounded table. What one origin has wrong, another may have right; times are monotonic seconds.
    """

    def __init__(self) -> None:
        self._until: dict[tuple[str, Digest], float] = {}

    def add(self, origins: Iterable[str], digest: Digest, now: float) -> None:
        """
        What came for ``digest`` from all hosts of these origins was something else.
        """
        for origin in origins:
            self._until.pop((origin, digest), None)
            self._until[origin, digest] = now + WHILE
        while len(self._until) > _MOST:
            del self._until[next(iter(self._until))]

    def has(self, origin: str, digest: Digest, now: float) -> bool:
        """
        Whether ``origin`` has lately had it wrong.
        """
        until = self._until.get((origin, digest))
        if until is not None and until <= now:
            del self._until[origin, digest]
            return False
        return until is not None
