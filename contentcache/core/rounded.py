"""Sizes, durations and shares as people read them, rounded; the exact ones are in ``sizes`` and ``durations``."""

from __future__ import annotations

from typing import Final

_UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
_STEPS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
_THOUSAND: Final = 1000
#: From here on no digit behind the point is shown.
_WHOLE: Final = 100


def size(count: float) -> str:
    """
    A number of bytes with three digits or so, in powers of 1000.

    >>> [size(count) for count in (0, 999, 1_234, 12_345_678, 999_999, 123_456_789_000)]
    ['0 B', '999 B', '1.23 kB', '12.3 MB', '1 MB', '123 GB']
    """
    power = 0
    while abs(count) >= _THOUSAND - 0.5 and power < len(_UNITS) - 1:
        count, power = count / _THOUSAND, power + 1
    return f"{_digits(count)} {_UNITS[power]}"


def duration(seconds: float) -> str:
    """
    A time in its two largest units.

    >>> [duration(seconds) for seconds in (0.0123, 0.5, 42, 61, 7_200, 200_000)]
    ['12 ms', '500 ms', '42 s', '1 min 1 s', '2 h', '2 d 7 h']
    """
    if seconds < 1:
        return f"{max(0.0, seconds) * _THOUSAND:.0f} ms"
    left = int(seconds)
    for place, (length, unit) in enumerate(_STEPS):
        if left >= length:
            count, left = divmod(left, length)
            smaller = _STEPS[place + 1] if place + 1 < len(_STEPS) else None
            rest = 0 if smaller is None else left // smaller[0]
            return f"{count} {unit}" + (f" {rest} {smaller[1]}" if smaller is not None and rest else "")
    return "0 s"


def share(ratio: float) -> str:
    """
    A share of one as a percentage, which is 100 only where nothing is missing.

    >>> [share(ratio) for ratio in (0, 0.5, 0.9312, 0.9999, 1)]
    ['0 %', '50 %', '93.1 %', '99.9 %', '100 %']
    """
    percent = ratio * 100
    if 0 < percent < 100:  # noqa: PLR2004
        percent = min(max(percent, 0.1), 99.9)
    return f"{percent:.1f}".removesuffix(".0") + " %"


def _digits(count: float) -> str:
    text = f"{count:.0f}" if abs(count) >= _WHOLE else f"{count:.1f}" if abs(count) >= 10 else f"{count:.2f}"  # noqa: PLR2004
    return text.rstrip("0").rstrip(".") if "." in text else text
