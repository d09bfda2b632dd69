"""
What a client says with every request: read once for a connection, and compared from then on.
"""

from __future__ import annotations

import re
from typing import Final

from attrs import Factory, define
from twisted.web.http_headers import Headers

from contentcache.core.errors import CacheError
from contentcache.journal import harmless
from contentcache.web.heads import look_at, look_at_line

_MOST_FIELDS: Final = 24
_FIELD: Final = re.compile(rb"([A-Za-z-]+):[ \t]*([!-~](?:[ -~]*[!-~])?)")
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
    request line; ``keys`` names its credential in repositories.
    """

    rest: bytes
    simple: bool = False
    host: str = ""
    authorization: str | None = None
    address: str = "-"
    agent: str = "-"
    referer: str = "-"
    keys: dict[tuple[str, str], bytes] = Factory(dict)


def read_habit(rest: bytes, address: str) -> Habit:
    """
    What a head says below its first line.
    """
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
    # A dual-stack socket shows IPv4 clients in IPv6's clothes.
    habit.address = address.removeprefix("::ffff:")
    habit.agent = harmless(named.get(b"user-agent", "-"), 256)
    habit.referer = harmless(named.get(b"referer", "-"), 256)
    return habit
