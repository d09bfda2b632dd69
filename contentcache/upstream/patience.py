"""Who was told by an upstream to wait (429), and until when."""

from __future__ import annotations

from typing import Final

from contentcache.core.lru import LruCache

_MOST: Final = 10_000


class Patience:
    """A bounded table under keys that say nothing of a credential; times are monotonic seconds."""

    def __init__(self) -> None:
        self._until: LruCache[bytes, float] = LruCache(_MOST)

    def asked_for(self, key: bytes, until: float) -> None:
        """Upstream wants to hear nothing of this credential until then."""
        self._until.put(key, until)

    def remaining(self, key: bytes, now: float) -> float | None:
        """For how many seconds more, if at all."""
        until = self._until.get(key)
        if until is None:
            return None
        if until <= now:
            self._until.remove(key)
            return None
        return until - now
