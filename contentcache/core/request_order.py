"""
The order of requests to an origin, whichever of their answers arrives first.

Rules:

* each request has a time, taken before it is sent; no two requests of one process have the same time;
* an answer is outdated if a request that was sent later has been answered already;
* the table of answered requests is bounded. An entry that is evicted from it outdates all requests that were sent
  before it, whatever they are for: a full table costs requests, and never revives a grant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable

from contentcache.core.lru import LruCache


class RequestClock:
    """
    Strictly increasing times in seconds, from a monotonic clock that all workers of one machine share.

    >>> clock = RequestClock(lambda: 5.0)
    >>> clock() < clock()
    True
    """

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._last = -math.inf

    def __call__(self) -> float:
        """The time of a request that is about to be sent."""
        self._last = max(self._seconds(), math.nextafter(self._last, math.inf))
        return self._last


class LatestRequests:
    """
    When the latest answered request was sent, per key; at most ``capacity`` keys.

    >>> denied = LatestRequests()
    >>> denied.record("ann", 2.0)
    >>> denied.outdates(1.0, "ann"), denied.outdates(3.0, "ann"), denied.outdates(1.0, "bob")
    (True, False, False)
    """

    def __init__(self, capacity: int = 100_000) -> None:
        self._asked: LruCache[Hashable, float] = LruCache(capacity, self._raise_floor)
        self._floor = -math.inf

    def __len__(self) -> int:
        return len(self._asked)

    def resize(self, capacity: int) -> None:
        """Have another capacity."""
        self._asked.resize(capacity)

    def record(self, key: Hashable, asked: float) -> None:
        """Record that a request that was sent at ``asked`` has been answered."""
        before = self._asked.peek(key)
        self._asked.put(key, asked if before is None else max(asked, before))

    def last(self, *keys: Hashable) -> float:
        """The time of the latest request under any of ``keys``, or a later time if it was evicted."""
        known = (self._asked.peek(key) for key in keys)
        return max((self._floor if asked is None else asked for asked in known), default=self._floor)

    def outdates(self, asked: float, *keys: Hashable) -> bool:
        """Whether a request that was sent later than ``asked`` has been answered."""
        return asked < self.last(*keys)

    def _raise_floor(self, _key: Hashable, asked: float) -> None:
        self._floor = max(self._floor, asked)
