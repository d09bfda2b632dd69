"""
Which bytes a client wants (RFC 9110 §14).

Rules kept here:

* an unknown unit or a malformed set is ignored: the whole is the answer (§14.2);
* parts that cannot be satisfied are left out, unless none can: then 416 (§15.5.17);
* overlapping and touching parts are merged; more than :data:`MOST_PARTS` after that are refused with
  416, for answering many parts by the whole blob would hurt the line twice.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from attrs import frozen

from contentcache.core.errors import RangeUnsatisfiable

MOST_PARTS: Final = 64

_SPEC = re.compile(r"[ \t]*(?P<first>[0-9]*)-(?P<last>[0-9]*)[ \t]*", re.ASCII)
_DIGITS = 18  # as many as surely fit; int() itself gives up at 4,300


@frozen
class Span:
    """A half-open run of bytes within a blob of ``size`` bytes."""

    start: int
    stop: int
    size: int

    @property
    def length(self) -> int:
        """How many bytes it has."""
        return self.stop - self.start

    def content_range(self) -> str:
        """
        The value of the ``Content-Range`` header (RFC 9110 §14.4).

        >>> Span(0, 500, 1000).content_range()
        'bytes 0-499/1000'
        """
        return f"bytes {self.start}-{self.stop - 1}/{self.size}"


@frozen
class Wish:
    """One part of a ``Range`` header before the size is known; ``first`` is ``None`` for a suffix."""

    first: int | None
    last: int | None

    def within(self, size: int) -> Span | None:
        """The bytes meant in a blob of ``size`` bytes, ``None`` where there are none."""
        if self.first is None:
            count = min(self.last or 0, size)
            return Span(size - count, size, size) if count else None
        if self.first >= size:
            return None
        stop = size if self.last is None else min(self.last + 1, size)
        return Span(self.first, stop, size)


def parse_range(value: str | None) -> Sequence[Wish]:
    """
    The parts wanted; none means the whole.

    >>> parse_range("bytes=0-9, -5")
    (Wish(first=0, last=9), Wish(first=None, last=5))
    >>> parse_range("lines=1-2"), parse_range("bytes=9-0")
    ((), ())
    """
    if value is None:
        return ()
    unit, equals, specs = value.partition("=")
    if not equals or unit.strip(" \t").lower() != "bytes":
        return ()
    wishes: list[Wish] = []
    for spec in specs.split(","):
        if not spec.strip(" \t"):
            continue
        wish = _parse_spec(spec)
        if wish is None:
            return ()
        wishes.append(wish)
    return tuple(wishes)


def _parse_spec(spec: str) -> Wish | None:
    match = _SPEC.fullmatch(spec)
    if match is None or match["first"] == match["last"] == "":
        return None
    if match["first"] == "":
        return Wish(None, _number(match["last"]))
    first = _number(match["first"])
    if match["last"] == "":
        return Wish(first, None)
    if _magnitude(match["first"]) > _magnitude(match["last"]):
        return None
    return Wish(first, _number(match["last"]))


def _magnitude(digits: str) -> tuple[int, str]:
    # Orders numbers of any length.
    digits = digits.lstrip("0")
    return len(digits), digits


def _number(digits: str) -> int:
    digits = digits.lstrip("0")
    return int(digits or "0") if len(digits) <= _DIGITS else 10**_DIGITS


def spans(wishes: Sequence[Wish], size: int) -> Sequence[Span]:
    """
    The parts to send of a blob of ``size`` bytes, merged, in the order in which they were asked for; none
    means the whole.

    :raises RangeUnsatisfiable: none exists, or they are too many.
    """
    found = [span for wish in wishes if (span := wish.within(size)) is not None]
    merged = _merge(found, size)
    if size == 0 and any(wish.first is None and wish.last for wish in wishes):
        return ()  # an empty suffix is satisfiable, but there is no Content-Range for it
    if not merged:
        raise RangeUnsatisfiable("no byte of this range exists", headers={"Content-Range": f"bytes */{size}"})
    if len(merged) > MOST_PARTS:
        raise RangeUnsatisfiable(
            f"more than {MOST_PARTS} ranges at once", headers={"Content-Range": f"bytes */{size}"}
        )
    return merged


def _merge(found: Sequence[Span], size: int) -> Sequence[Span]:
    # (start, stop, place in the request); a merged part stands where its first member stood.
    runs: list[tuple[int, int, int]] = []
    for place, span in sorted(enumerate(found), key=lambda item: item[1].start):
        if runs and span.start <= runs[-1][1]:
            start, stop, first = runs[-1]
            runs[-1] = (start, max(stop, span.stop), min(first, place))
        else:
            runs.append((span.start, span.stop, place))
    return tuple(Span(start, stop, size) for start, stop, _ in sorted(runs, key=lambda run: run[2]))


@frozen
class ContentRange:
    """What an upstream says it sends: the first byte, the last, and the whole if it knows."""

    first: int
    last: int
    size: int | None


_CONTENT_RANGE = re.compile(
    r"bytes (?P<first>[0-9]{1,18})-(?P<last>[0-9]{1,18})/(?P<size>[0-9]{1,18}|\*)", re.ASCII | re.IGNORECASE
)


def parse_content_range(value: str | None) -> ContentRange | None:
    """
    Read ``Content-Range`` of a 206 (RFC 9110 §14.4); ``None`` if it makes no sense.

    >>> parse_content_range("bytes 5-9/10")
    ContentRange(first=5, last=9, size=10)
    """
    match = _CONTENT_RANGE.fullmatch(value or "")
    if match is None:
        return None
    size = None if match["size"] == "*" else int(match["size"])
    first, last = int(match["first"]), int(match["last"])
    if last < first or (size is not None and last >= size):
        return None
    return ContentRange(first, last, size)
