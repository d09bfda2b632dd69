"""How many wrong credentials are too many, as leaking buckets."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

from attrs import frozen

_MOST_BUCKETS: Final = 50_000


@frozen
class _Bucket:
    level: float
    when: float


class Throttle:
    """
    Each key may fail ``burst`` times at once, and once more every ``seconds``.

    Times are monotonic seconds, given by the caller. The buckets that were filled last are kept.
    """

    def __init__(self, *, burst: int, seconds: float) -> None:
        self._burst = burst
        self._seconds = seconds
        self._buckets: OrderedDict[Hashable, _Bucket] = OrderedDict()

    def wait(self, key: Hashable, now: float) -> int:
        """For how many seconds nothing more is heard; 0 if an attempt may be made now."""
        over = self._level(key, now) + 1 - self._burst
        return max(0, math.ceil(over * self._seconds))

    def count(self, key: Hashable, now: float) -> None:
        """An attempt is made: it counts as a failure until it is taken back."""
        self._set(key, self._level(key, now) + 1, now)

    def take_back(self, key: Hashable, now: float) -> None:
        """It was none."""
        self._set(key, self._level(key, now) - 1, now)

    def _level(self, key: Hashable, now: float) -> float:
        bucket = self._buckets.get(key)
        return 0.0 if bucket is None else max(0.0, bucket.level - (now - bucket.when) / self._seconds)

    def _set(self, key: Hashable, level: float, now: float) -> None:
        self._buckets.pop(key, None)
        if level > 0:
            self._buckets[key] = _Bucket(level, now)
            while len(self._buckets) > _MOST_BUCKETS:
                self._buckets.popitem(last=False)
