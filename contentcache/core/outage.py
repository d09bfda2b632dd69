"""
How long a transfer that has begun waits for upstreams that are not available.

Times are monotonic seconds. Pauses double from :data:`FIRST_PAUSE` to :data:`LONGEST_PAUSE`, so that a host that is
back is asked at most two seconds later.
"""

from __future__ import annotations

from typing import Final

from contentcache.core.errors import (
    CacheError,
    OriginRefused,
    UpstreamBroken,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from contentcache.core.header_policy import first

FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 2.0
_TOO_MANY: Final = 429


class Outage:
    """The time since a transfer's last byte in which no host has delivered the next one."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._pauses = 0

    def began(self, now: float) -> None:
        """A host has failed; nothing happens if one has failed before, since the last byte."""
        if self._since is None:
            self._since = now

    def ended(self) -> None:
        """Bytes have arrived."""
        self._since, self._pauses = None, 0

    def next_pause(self, now: float, retry_for: float, retry_after: float = 0.0) -> float | None:
        """
        Seconds until the hosts are asked again, ``None`` if they are not.

        They are asked again once at least, and then for ``retry_for`` seconds. ``retry_after`` is how long upstream
        wants no request: a longer time than is left ends it.

        >>> outage = Outage()
        >>> outage.began(10.0)
        >>> [outage.next_pause(10.0, 20.0) for _ in range(6)]
        [0.1, 0.2, 0.4, 0.8, 1.6, 2.0]
        >>> outage.next_pause(29.5, 20.0), outage.next_pause(30.0, 20.0)
        (0.5, None)
        """
        self.began(now)
        left = (self._since or 0.0) + retry_for - now
        self._pauses += 1
        if retry_after > max(left, 0.0) or (left <= 0 and self._pauses > 1):
            return None
        pause = min(FIRST_PAUSE * 2.0 ** min(self._pauses - 1, 10), LONGEST_PAUSE)
        return max(retry_after, pause if self._pauses == 1 else min(pause, left))


def repeatable_after(error: CacheError) -> float | None:
    """
    After how many seconds a request that failed so may be sent again, ``None`` where that is no use.

    >>> repeatable_after(UpstreamTimeout("too late")), repeatable_after(OriginRefused(404, {}))
    (0.0, None)
    >>> repeatable_after(OriginRefused(429, {"Retry-After": "7"}))
    7.0
    """
    if isinstance(error, UpstreamUnavailable | UpstreamTimeout | UpstreamBroken):
        return 0.0
    if isinstance(error, OriginRefused) and error.status == _TOO_MANY:
        return float(first(error.headers, "Retry-After") or 0)
    return None
