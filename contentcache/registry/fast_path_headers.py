"""What a client says with every request: read once for a connection, and compared from then on."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from attrs import Factory, define
from twisted.web.http_headers import Headers

from contentcache.core.client_address import shown_address
from contentcache.core.errors import CacheError
from contentcache.core.ranges import Wish
from contentcache.journal import harmless
from contentcache.server.framing import look_at, look_at_line
from contentcache.storage.interfaces import Link

_MOST_FIELDS: Final = 24
_FIELD: Final = re.compile(rb"([A-Za-z-]+):[ \t]*([!-~](?:[ -~]*[!-~])?)")
_RANGE: Final = re.compile(rb"(?:\A|\r\n)[Rr]ange:[ \t]*bytes=([0-9]{0,18})-([0-9]{0,18})(?=\r\n|\Z)")
#: Nothing that is said in these changes the answer, but for the first two.
_SIMPLE: Final = frozenset(
    {
        b"authorization",
        b"host",
        b"accept",
        b"accept-encoding",
        b"accept-language",
        b"connection",
        b"referer",
        b"user-agent",
        b"x-meta-source-client",
    }
)


@define(eq=False)
class Habit:
    """
    What a client says with each request on a connection, read once. ``rest`` is all of its head but the
    request line, and but for a part that it asks for; ``ways`` tell, for each origin and repository that it
    has asked for, whether it may have something there.
    """

    rest: bytes
    simple: bool = False
    host: str = ""
    authorization: str | None = None
    address: str = "-"
    agent: str = "-"
    referer: str = "-"
    ways: dict[tuple[str, str], Callable[[Link], bool]] = Factory(dict)


def split_range(rest: bytes) -> tuple[bytes, Wish | None]:
    """
    A head without a simple ``Range``, and what that wishes: one part, whose end is not before its beginning.

    >>> split_range(b"Host: a\\r\\nRange: bytes=0-9\\r\\nAccept: b")
    (b'Host: a\\r\\nAccept: b', Wish(first=0, last=9))
    >>> split_range(b"Range: bytes=9-0")
    (b'Range: bytes=9-0', None)
    """
    match = _RANGE.search(rest) if b"ange:" in rest else None
    if match is None:
        return rest, None
    first, last = (int(digits) if digits else None for digits in match.groups())
    if (first is None and last is None) or (first is not None and last is not None and first > last):
        return rest, None
    start, end = match.span()
    return rest[:start] + rest[end if start else end + 2 :], Wish(first, last)


def read_habit(rest: bytes, address: str) -> Habit:
    """What a head says below its first line."""
    habit = Habit(rest)
    lines = rest.split(b"\r\n")
    if len(lines) > _MOST_FIELDS:
        return habit
    named: dict[bytes, str] = {}
    headers = Headers()
    for line in lines:
        match = _FIELD.fullmatch(line)
        if match is None or (name := match[1].lower()) in named or name not in _SIMPLE:
            return habit
        named[name] = match[2].decode("ascii")
        headers.addRawHeader(name, match[2])
    try:
        look_at(b"GET", b"HTTP/1.1", headers)
        for line in lines:
            look_at_line(line, is_first=False)
    except CacheError:
        return habit
    habit.simple = named.get(b"connection", "keep-alive").lower() == "keep-alive"
    habit.host = named[b"host"].lower()
    habit.authorization = named.get(b"authorization")
    habit.address = shown_address(address)
    habit.agent = harmless(named.get(b"user-agent", "-"), 256)
    habit.referer = harmless(named.get(b"referer", "-"), 256)
    return habit
