"""
Which bytes a client wants, and which an upstream sends (RFC 9110 §14).

Rules for clients:

* an unknown unit or a malformed set is ignored: the answer is the whole (§14.2);
* parts that cannot be satisfied are left out; if none can be satisfied the answer is 416 (§15.5.17);
* overlapping and touching parts are merged; more than :data:`MOST_PARTS` after that are refused with 416, since
  the whole blob as the answer to many parts would cost twice.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from attrs import frozen

from contentcache.core.errors import RangeUnsatisfiable, UpstreamBroken

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
class RangeSpec:
    """One part of a ``Range`` header, whatever the size (RFC 9110 §14.1.2); ``first`` is ``None`` for a suffix."""

    first: int | None
    last: int | None

    def within(self, size: int) -> Span | None:
        """The bytes of it in a blob of ``size`` bytes, ``None`` if there are none."""
        if self.first is None:
            count = min(self.last or 0, size)
            return Span(size - count, size, size) if count else None
        if self.first >= size:
            return None
        stop = size if self.last is None else min(self.last + 1, size)
        return Span(self.first, stop, size)


def parse_range(value: str | None) -> Sequence[RangeSpec]:
    """
    The parts of a ``Range`` header; none means the whole.

    >>> parse_range("bytes=0-9, -5")
    (RangeSpec(first=0, last=9), RangeSpec(first=None, last=5))
    >>> parse_range("lines=1-2"), parse_range("bytes=9-0")
    ((), ())
    """
    if value is None:
        return ()
    unit, equals, rest = value.partition("=")
    if not equals or unit.strip(" \t").lower() != "bytes":
        return ()
    specs: list[RangeSpec] = []
    for text in rest.split(","):
        if not text.strip(" \t"):
            continue
        spec = _parse_spec(text)
        if spec is None:
            return ()
        specs.append(spec)
    return tuple(specs)


def _parse_spec(spec: str) -> RangeSpec | None:
    match = _SPEC.fullmatch(spec)
    if match is None or match["first"] == match["last"] == "":
        return None
    if match["first"] == "":
        return RangeSpec(None, _number(match["last"]))
    first = _number(match["first"])
    if match["last"] == "":
        return RangeSpec(first, None)
    if _magnitude(match["first"]) > _magnitude(match["last"]):
        return None
    return RangeSpec(first, _number(match["last"]))


def _magnitude(digits: str) -> tuple[int, str]:
    # Orders numbers of any length.
    digits = digits.lstrip("0")
    return len(digits), digits


def _number(digits: str) -> int:
    digits = digits.lstrip("0")
    return int(digits or "0") if len(digits) <= _DIGITS else 10**_DIGITS


def spans(specs: Sequence[RangeSpec], size: int) -> Sequence[Span]:
    """
    The parts to send of a blob of ``size`` bytes, merged, in the order in which they were asked for; none
    means the whole.

    :raises RangeUnsatisfiable: none exists, or they are too many.
    """
    found = [span for spec in specs if (span := spec.within(size)) is not None]
    merged = _merge(found, size)
    if size == 0 and any(spec.first is None and spec.last for spec in specs):
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
    """What an upstream sends: the first byte, the last, and the size of the whole if it is stated."""

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


OK: Final = 200
PARTIAL: Final = 206
RANGE_NOT_SATISFIABLE: Final = 416
_NOT_IMPLEMENTED: Final = 501
_TOO_MANY: Final = 429

_LENGTH = re.compile(r"[0-9]{1,18}", re.ASCII)


@frozen
class BodyStart:
    """A body that starts at byte ``start`` of a content of ``total`` bytes (``None``: not stated)."""

    start: int
    total: int | None


def parse_length(value: str | None) -> int | None:
    """Read ``Content-Length``; ``None`` where there is none or it makes no sense."""
    digits = "" if value is None else value.strip(" \t")
    return int(digits) if _LENGTH.fullmatch(digits) else None


def parse_body_start(status: int, length: int | None, content_range: str | None, wanted: int) -> BodyStart:
    """
    Parse the head of a 200 or a 206 to a request for everything from byte ``wanted`` on.

    A 200 to a range request sends everything: the caller skips its first bytes.

    :raises UpstreamBroken: the body does not start at ``wanted``, or it is no success.

    >>> parse_body_start(206, 5, "bytes 5-9/10", 5)
    BodyStart(start=5, total=10)
    >>> parse_body_start(200, 10, None, 5)
    BodyStart(start=0, total=10)
    """
    if status == OK:
        return BodyStart(0, length)
    if status != PARTIAL:
        raise UpstreamBroken(f"upstream answered {status} to a request for content")
    sent = parse_content_range(content_range)
    if sent is None or sent.first != wanted:
        raise UpstreamBroken(f"upstream sent {content_range!r} where bytes from {wanted} on were asked for")
    return BodyStart(sent.first, sent.size)


_UNSATISFIED = re.compile(r"bytes \*/(?P<size>[0-9]{1,18})", re.ASCII | re.IGNORECASE)


def parse_unsatisfied_size(content_range: str | None) -> int | None:
    """
    The size of a content by the ``Content-Range`` of a 416 (RFC 9110 §15.5.17), if it is stated.

    >>> parse_unsatisfied_size("bytes */10")
    10
    """
    match = _UNSATISFIED.fullmatch(content_range or "")
    return int(match["size"]) if match is not None else None


def is_range_refused(status: int, content_range: str | None, wanted: str, *, redirected: bool) -> bool:
    """
    Whether an answer to a ``GET`` with ``Range: wanted`` is about the range, so that a ``GET`` of the whole
    content may bring what this one did not: a 501; a 416 that does not say that the content ends before the
    range (RFC 9110 §15.5.17); a 206 with other bytes (§15.3.7). ``redirected`` answers come from storage
    behind a registry, which signs URLs for one kind of request: a 4xx may mean the range, but for a 429.

    >>> is_range_refused(416, "bytes */10", "bytes=5-9", redirected=False)
    True
    >>> is_range_refused(416, "bytes */10", "bytes=10-", redirected=False)
    False
    >>> is_range_refused(206, "bytes 0-4/10", "bytes=5-9", redirected=False)
    True
    >>> is_range_refused(403, None, "bytes=5-9", redirected=True)
    True
    """
    asked = parse_range(wanted)
    if len(asked) != 1 or asked[0].first is None:
        return False
    first, last = asked[0].first, asked[0].last
    if status == PARTIAL:
        sent = parse_content_range(content_range)
        return sent is None or sent.first != first or (last is not None and sent.last > last)
    if status == RANGE_NOT_SATISFIABLE:
        size = parse_unsatisfied_size(content_range)
        return size is None or first < size
    if redirected and status != _TOO_MANY and 400 <= status < 500:  # noqa: PLR2004
        return True
    return status == _NOT_IMPLEMENTED
