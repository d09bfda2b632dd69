"""What the head of an upstream's answer says about the body that follows."""

from __future__ import annotations

import re
from typing import Final

from attrs import frozen

from contentcache.core.errors import UpstreamBroken
from contentcache.core.ranges import parse_content_range, parse_range

OK: Final = 200
PARTIAL: Final = 206
RANGE_NOT_SATISFIABLE: Final = 416
_NOT_IMPLEMENTED: Final = 501
_TOO_MANY: Final = 429

_LENGTH = re.compile(r"[0-9]{1,18}", re.ASCII)


@frozen
class Opening:
    """A body that starts at byte ``start`` of a content of ``total`` bytes (``None``: it does not say)."""

    start: int
    total: int | None


def parse_length(value: str | None) -> int | None:
    """Read ``Content-Length``; ``None`` where there is none or it makes no sense."""
    digits = "" if value is None else value.strip(" \t")
    return int(digits) if _LENGTH.fullmatch(digits) else None


def read_opening(status: int, length: int | None, content_range: str | None, wanted: int) -> Opening:
    """
    Understand a 200 or a 206 to a request for everything from byte ``wanted`` on.

    A 200 to a range request sends everything: its first bytes are to be passed over.

    :raises UpstreamBroken: the answer is no start of what was asked for.

    >>> read_opening(206, 5, "bytes 5-9/10", 5)
    Opening(start=5, total=10)
    >>> read_opening(200, 10, None, 5)
    Opening(start=0, total=10)
    """
    if status == OK:
        return Opening(0, length)
    if status != PARTIAL:
        raise UpstreamBroken(f"upstream answered {status} to a request for content")
    sent = parse_content_range(content_range)
    if sent is None or sent.first != wanted:
        raise UpstreamBroken(f"upstream sent {content_range!r} where bytes from {wanted} on were asked for")
    return Opening(sent.first, sent.size)


_UNSATISFIED = re.compile(r"bytes \*/(?P<size>[0-9]{1,18})", re.ASCII | re.IGNORECASE)


def read_unsatisfied(content_range: str | None) -> int | None:
    """
    How many bytes the content has by a 416 (RFC 9110 §15.5.17), if it says.

    >>> read_unsatisfied("bytes */10")
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
        size = read_unsatisfied(content_range)
        return size is None or first < size
    if redirected and status != _TOO_MANY and 400 <= status < 500:  # noqa: PLR2004
        return True
    return status == _NOT_IMPLEMENTED
