"""Sizes in bytes as people write them: ``500GB``, ``2TiB``, ``1048576``."""

from __future__ import annotations

import re
from typing import Final

#: Bytes in each unit, in lower case: powers of 1000, and with an ``i`` powers of 1024.
UNITS: Final = {
    "": 1,
    "b": 1,
    **{f"{letter}b": 1000**power for power, letter in enumerate("kmgtpe", 1)},
    **{f"{letter}ib": 1024**power for power, letter in enumerate("kmgtpe", 1)},
}

#: What a file system can count.
LARGEST: Final = (1 << 63) - 1

_SIZE = re.compile(r"(?P<whole>[0-9]+)(?:\.(?P<fraction>[0-9]+))?[ ]?(?P<unit>[A-Za-z]*)")
_DIGITS: Final = len(str(LARGEST))


class SizeInvalid(ValueError):
    """A text is not a size, or a larger one than any disk."""


def parse(text: str) -> int:
    """
    Read a size and give it in whole bytes; the case of the unit does not matter.

    :raises SizeInvalid: with a sentence that says what would be right.

    >>> parse("64KiB"), parse("1.5 GB"), parse("7")
    (65536, 1500000000, 7)
    >>> parse("5G")
    Traceback (most recent call last):
    ...
    contentcache.core.sizes.SizeInvalid: '5G' is not a size; write 5GB (powers of 1000) or 5GiB (of 1024)
    """
    match = _SIZE.fullmatch(text)
    shown = repr(text if len(text) <= 60 else text[:60] + "...")  # noqa: PLR2004 (enough to find it again)
    if match is None:
        raise SizeInvalid(f"{shown} is not a size; write e.g. 500GB or 2TiB, or a number of bytes")
    unit = match["unit"].lower()
    if unit not in UNITS:
        raise SizeInvalid(f"{shown} is not a size; {_right(match, unit)}")
    whole, fraction = match["whole"].lstrip("0"), (match["fraction"] or "")[:_DIGITS]
    # int() raises on more than 4,300 digits; whatever has that many is too large anyway.
    if len(whole) <= _DIGITS:
        size: int = int(whole + fraction or "0") * UNITS[unit] // 10 ** len(fraction)
        if size <= LARGEST:
            return size
    raise SizeInvalid(f"{shown} is too large; the largest size is {LARGEST} bytes")


def spell(size: int) -> str:
    """
    The shortest exact spelling of ``size`` bytes: what :func:`parse` reads back.

    >>> spell(2 << 40), spell(500 * 10**9), spell(1500)
    ('2TiB', '500GB', '1500')
    """
    names = {unit: unit.upper().replace("I", "i") for unit in UNITS if len(unit) > 1}
    exact = [
        f"{size // UNITS[unit]}{name}" for unit, name in names.items() if size and size % UNITS[unit] == 0
    ]
    return min([*exact, str(size)], key=len)


def _right(match: re.Match[str], unit: str) -> str:
    if unit + "b" in UNITS:
        number = match[0][: match.start("unit") - match.start()].strip()
        letter = unit.upper()
        return f"write {number}{letter}B (powers of 1000) or {number}{letter}iB (of 1024)"
    return "the units are B, kB, MB, GB, TB, PB (powers of 1000) and KiB, MiB, GiB, TiB, PiB (of 1024)"
