"""
What the head of an upstream's answer says about the body that follows.
"""

from __future__ import annotations

import re
from typing import Final

from attrs import frozen

from contentcache.core.errors import UpstreamBroken
from contentcache.core.ranges import parse_content_range

OK: Final = 200
PARTIAL: Final = 206
RANGE_NOT_SATISFIABLE: Final = 416

_LENGTH = re.compile(r"[0-9]{1,18}", re.ASCII)


@frozen
class Opening:
    """
    A body that starts at byte ``start`` of a content of ``total`` bytes (``None``: it does not say).
    """

    start: int
    total: int | None


def parse_length(value: str | None) -> int | None:
    """
    Read ``Content-Length``; ``None`` where there is none or it makes no sense.
    """
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
