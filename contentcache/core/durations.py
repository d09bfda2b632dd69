"""
Durations as Go writes them (Go, ``time.ParseDuration``), which is how the registry's files do.

Digits alone, without a unit, are nanoseconds, as the file format says.
"""

from __future__ import annotations

import re
from typing import Final

#: Nanoseconds in each unit. The micro sign and the Greek letter are both in use.
UNITS: Final = {
    "ns": 1,
    "us": 1_000,
    "\u00b5s": 1_000,
    "\u03bcs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}

#: Go counts nanoseconds in 64 bits with a sign: about 292 years.
LONGEST: Final = (1 << 63) - 1

_DIGITS: Final = len(str(LONGEST))
_PART = re.compile(r"(?P<whole>[0-9]*)(?:\.(?P<fraction>[0-9]*))?(?P<unit>ns|us|\u00b5s|\u03bcs|ms|s|m|h)")
_BARE = re.compile(r"[0-9]+")


class DurationInvalid(ValueError):
    """A text is not a duration, or a longer one than 64 bits of nanoseconds hold."""


def parse(text: str) -> float:
    """
    Read a duration and give it in seconds; it may be negative.

    :raises DurationInvalid: with a sentence that says what would be right.

    >>> parse("1h30m")
    5400.0
    >>> parse("-1.5s")
    -1.5
    >>> parse("86400000000000")
    86400.0
    >>> parse("24hours")
    Traceback (most recent call last):
    ...
    contentcache.core.durations.DurationInvalid: '24hours' is not a duration; write e.g. 24h or 1h30m
    """
    unsigned = text[1:] if text[:1] in {"+", "-"} else text
    nanoseconds = _nanoseconds(unsigned, text)
    if nanoseconds > LONGEST:
        raise DurationInvalid(f"{_shown(text)} is too long a duration; the longest is about 292 years")
    return (-nanoseconds if text.startswith("-") else nanoseconds) / UNITS["s"]


def is_bare(text: str) -> bool:
    """
    Whether ``text`` has no unit, and so counts nanoseconds.

    >>> is_bare("24"), is_bare("24h")
    (True, False)
    """
    return _BARE.fullmatch(text.lstrip("+-")) is not None


def spell(seconds: float) -> str:
    """
    The shortest exact spelling of a duration of ``seconds``: what :func:`parse` reads back.

    >>> spell(604800), spell(90), spell(0.25), spell(0)
    ('168h', '1m30s', '250ms', '0')
    """
    # In whole numbers, as a float's ratio is exact.
    over, under = abs(seconds).as_integer_ratio()
    left = (2 * over * UNITS["s"] + under) // (2 * under)
    parts = ["-"] if seconds < 0 else []
    for unit in ("h", "m", "s", "ms", "us", "ns"):
        count, left = divmod(left, UNITS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) if parts and parts != ["-"] else "0"


def _nanoseconds(unsigned: str, text: str) -> int:
    if _BARE.fullmatch(unsigned):
        return _whole(unsigned)
    total, position = 0, 0
    while match := _PART.match(unsigned, position):
        whole, fraction = match["whole"], match["fraction"] or ""
        if not whole and not fraction:
            break
        unit = UNITS[match["unit"]]
        # Hours have 13 digits of nanoseconds: digits further behind the point change nothing.
        shortened = fraction[:_DIGITS]
        total += _whole(whole) * unit + int(shortened or "0") * unit // 10 ** len(shortened)
        position = match.end()
    if position == 0 or position != len(unsigned):
        raise DurationInvalid(f"{_shown(text)} is not a duration; write e.g. 24h or 1h30m")
    return total


def _whole(digits: str) -> int:
    # int() raises on more than 4,300 digits; whatever has that many is too long anyway.
    significant = digits.lstrip("0")
    return LONGEST + 1 if len(significant) > _DIGITS else int(significant or "0")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "...")  # noqa: PLR2004 (enough to find it again)
