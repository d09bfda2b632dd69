"""
The order of questions to an origin, whichever of their answers arrives first.

Rules:

* each question has a time, taken before it is sent; no two questions of one process have the same time;
* an answer is outdated if a question that was asked later has been answered already;
* the table of what was answered is bounded. An entry that is dropped from it outdates all questions that were
  asked before it, whatever they are about: a full table costs questions, and never revives anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable

from contentcache.core.lru import LruCache


class QuestionClock:
    """
    Strictly increasing times in seconds, from a monotonic clock that all workers of one machine share.

    >>> clock = QuestionClock(lambda: 5.0)
    >>> clock() < clock()
    True
    """

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._last = -math.inf

    def __call__(self) -> float:
        """The time of a question that is about to be asked."""
        self._last = max(self._seconds(), math.nextafter(self._last, math.inf))
        return self._last


class LatestQuestions:
    """
    When the latest question was asked of those that are noted here, per key; at most ``capacity`` keys.

    >>> denied = LatestQuestions()
    >>> denied.note("ann", 2.0)
    >>> denied.outdates(1.0, "ann"), denied.outdates(3.0, "ann"), denied.outdates(1.0, "bob")
    (True, False, False)
    """

    def __init__(self, capacity: int = 100_000) -> None:
        self._asked: LruCache[Hashable, float] = LruCache(capacity, self._raise_floor)
        self._floor = -math.inf

    def __len__(self) -> int:
        return len(self._asked)

    def note(self, key: Hashable, asked: float) -> None:
        """A question that was asked at ``asked`` has been answered."""
        before = self._asked.peek(key)
        self._asked.put(key, asked if before is None else max(asked, before))

    def last(self, *keys: Hashable) -> float:
        """The time of the latest question under any of ``keys``, or a later time where it was dropped."""
        known = (self._asked.peek(key) for key in keys)
        return max((self._floor if asked is None else asked for asked in known), default=self._floor)

    def outdates(self, asked: float, *keys: Hashable) -> bool:
        """Whether a question that was asked later than ``asked`` is noted."""
        return asked < self.last(*keys)

    def _raise_floor(self, _key: Hashable, asked: float) -> None:
        self._floor = max(self._floor, asked)
