"""How long an upstream wants to be left alone."""

from __future__ import annotations

import re
from datetime import UTC
from email.utils import parsedate_to_datetime

DEFAULT = 30.0
SHORTEST = 1.0
LONGEST = 600.0

_SECONDS = re.compile(r"0*([0-9]{1,14})", re.ASCII)
#: From here on a number is a moment.
_EPOCH = 1e9
_EPOCH_MILLISECONDS = 1e12
_DIGITS = re.compile(r"[0-9]+", re.ASCII)
_LONGEST_DATE = 64


def seconds_of_patience(value: str | None, now: float, longest: float = LONGEST) -> float:
    """
    The seconds that ``Retry-After`` asks for (RFC 9110 §10.2.3), between 1 and ``longest``.

    ``now`` is the wall clock in seconds since 1970. Some registries name the moment so, too: a number that
    would be over thirty years is one, in seconds or milliseconds. What is missing or cannot be understood
    counts as 30 s, so an upstream can neither stop the cache for a day nor be hammered.

    >>> seconds_of_patience("120", 0.0)
    120.0
    >>> seconds_of_patience("Thu, 01 Jan 1970 00:01:30 GMT", 0.0)
    90.0
    >>> seconds_of_patience("1700000090", 1_700_000_000.0)
    90.0
    >>> seconds_of_patience("soon", 0.0)
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
