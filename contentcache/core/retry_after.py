"""Rate limits of an upstream: how long it wants no request, and of whom (429)."""

from __future__ import annotations

import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

from contentcache.core.lru import LruCache

DEFAULT = 30.0
SHORTEST = 1.0
LONGEST = 600.0

_SECONDS = re.compile(r"0*([0-9]{1,14})", re.ASCII)
#: From here on a number is a moment.
_EPOCH = 1e9
_EPOCH_MILLISECONDS = 1e12
_COUNT = re.compile(r"[0-9]{1,9}", re.ASCII)
_DIGITS = re.compile(r"[0-9]+", re.ASCII)
_LONGEST_DATE = 64
_MOST_REMEMBERED: Final = 10_000


class RateLimits:
    """The keys that an upstream asked to wait, which show no credential. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._until: LruCache[bytes, float] = LruCache(_MOST_REMEMBERED)

    def limit(self, key: bytes, until: float) -> None:
        """Upstream wants no request of ``key`` until then."""
        self._until.put(key, until)

    def remaining(self, key: bytes, now: float) -> float | None:
        """For how many seconds ``key`` is still limited, if it is."""
        until = self._until.get(key)
        if until is None:
            return None
        if until <= now:
            self._until.remove(key)
            return None
        return until - now


def retry_after_seconds(value: str | None, now: float, longest: float = LONGEST) -> float:
    """
    The seconds that ``Retry-After`` asks for (RFC 9110 §10.2.3), between 1 and ``longest``.

    ``now`` is the wall clock in seconds since 1970. Some registries name the moment so, too: a number that
    would be over thirty years is one, in seconds or milliseconds. What is missing or cannot be understood
    counts as 30 s, so an upstream can neither stop the cache for a day nor be hammered.

    >>> retry_after_seconds("120", 0.0)
    120.0
    >>> retry_after_seconds("Thu, 01 Jan 1970 00:01:30 GMT", 0.0)
    90.0
    >>> retry_after_seconds("1700000090", 1_700_000_000.0)
    90.0
    >>> retry_after_seconds("soon", 0.0)
    30.0
    """
    text = (value or "").strip(" \t")
    if _DIGITS.fullmatch(text):
        short = _SECONDS.fullmatch(text)
        wanted = float(short[1]) if short else longest
        if wanted >= _EPOCH_MILLISECONDS:
            wanted = wanted / 1000 - now
        elif wanted >= _EPOCH:
            wanted -= now
    else:
        moment = _moment(text)
        wanted = DEFAULT if moment is None else moment - now
    return min(max(wanted, SHORTEST), longest)


def ratelimit_remaining(value: str | None) -> int | None:
    """
    The requests that ``ratelimit-remaining`` says are still allowed, ``None`` where it says nothing.

    Docker Hub's names the window too, in seconds.

    >>> ratelimit_remaining("76;w=21600")
    76
    >>> ratelimit_remaining("plenty") is None
    True
    """
    digits = (value or "").partition(";")[0].strip(" \t")
    return int(digits) if _COUNT.fullmatch(digits) else None


def _moment(text: str) -> float | None:
    """An HTTP-date in any of its three forms (RFC 9110 §5.6.7) as seconds since 1970."""
    if not text or len(text) > _LONGEST_DATE:
        return None
    try:
        moment = parsedate_to_datetime(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return moment.timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
