"""
The short way: a complete, simple ``GET`` or ``HEAD`` of a small blob that was served lately is answered from
inside ``dataReceived``.

Simple means: what good clients send, field for field. One request line, fields that say nothing about ranges,
conditions or framing. Everything else, and whatever is not known in memory, takes the long way, which decides
again from the start. The two answer alike.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from attrs import Factory, define, frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import datetimeToString
from twisted.web.http_headers import Headers

from contentcache.core.credentials import Credential
from contentcache.core.errors import CacheError
from contentcache.core.policy import allowed
from contentcache.core.ports import Clock, Timer
from contentcache.core.routes import Content, parse
from contentcache.delivery.served import Described
from contentcache.delivery.warm import Small, Warm
from contentcache.journal import Access, harmless
from contentcache.storage.interfaces import Link
from contentcache.upstream.registry import Registry
from contentcache.web.channel import RegistryChannel, RegistryRequest
from contentcache.web.errors import API_VERSION
from contentcache.web.exchange import Exchange
from contentcache.web.heads import look_at, look_at_line
from contentcache.web.origins import Origins
from contentcache.web.sending import headers_of, send_rest
from contentcache.wire.sendfile import FileTransport

#: Bytes and lines of a head that can be simple.
_LONGEST: Final = 4096
_MOST_FIELDS: Final = 24
#: So many requests of all clients, and repositories of one, are remembered until they are all forgotten.
_MOST_TARGETS: Final = 4096
_MOST_KEYS: Final = 64
#: Bodies of fewer bytes go out with their head in one piece.
_ONE_PIECE: Final = 16 << 10
_LINE: Final = re.compile(rb"(GET|HEAD) (/[!-~]*/blobs/[!->@-~]*)(?:\?ns=([A-Za-z0-9.:_-]+))? HTTP/1\.1")
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


@define(eq=False)
class _Target:
    """
    What a request line means. ``head`` is that of the answer, but for its first two lines.
    """

    method: str
    uri: str
    registry: Registry
    link: Link
    where: tuple[str, str]
    head: bytes = b""


@frozen
class Ahead:
    """
    An answer of which ``sent`` bytes of body have gone out, before a request was made of its head.
    """

    target: _Target
    small: Small
    sent: int


class ShortWay:
    """
    Answers what it can, of what a channel gets.

    ``credential_of`` says in whose name a request is made; ``written`` hears of answers, those of one turn of
    the reactor at once; ``extra`` goes out with every answer.
    """

    _log = Logger()

    def __init__(
        self,
        warm: Warm,
        origins: Origins,
        *,
        credential_of: Callable[[Registry, str | None], Credential],
        written: Callable[[list[Access]], None],
        prefix: str,
        extra: Mapping[str, tuple[str, ...]],
        timer: Timer,
        wall: Clock,
        patience: float,
    ) -> None:
        self._warm = warm
        self._origins = origins
        self._credential_of = credential_of
        self._written = written
        self._prefix = prefix.rstrip("/")
        self._extra = [(name, value) for name, values in extra.items() for value in values]
        self._timer = timer
        self._wall = wall
        self._patience = patience
        self._targets: dict[tuple[str, bytes], _Target] = {}
        self._answered: list[Access] = []
        self._second = -1
        self._beginning = b""

    def take(self, channel: RegistryChannel, data: bytes) -> bytes:
        """
        Answer the requests that ``data`` begins with, as far as they are simple; what is left of it.
        """
        position = 0
        while (end := data.find(b"\r\n\r\n", position, position + _LONGEST)) >= 0:
            line_end = data.find(b"\r\n", position)
            rest = data[line_end + 2 : end]
            habit = channel.habit
            if habit is None or habit.rest != rest:
                habit = channel.habit = _read(rest, channel.address)
            if not habit.simple or not self._answer(channel, habit, data[position:line_end]):
                break
            position = end + 4
            if position == len(data):
                return b""
            if not channel.is_free:
                break
        return data[position:] if position else data

    def go_on(self, request: RegistryRequest, ahead: Ahead) -> None:
        """
        Send the rest of an answer that has begun, as fast as the client takes it.
        """
        request.startedWriting = 1
        request.code, request.sentLength = 200, ahead.sent
        request.kind, request.upstream = "blobs", ahead.target.link.origin
        request.cache_status = _STATUS
        exchange = Exchange(request, self._timer, self._patience)
        answering = Deferred.fromCoroutine(self._send_rest(exchange, ahead))
        answering.addErrback(self._give_up, exchange)
        request.notifyFinish().addErrback(lambda _failure: answering.cancel())

    def _give_up(self, failure: Failure, exchange: Exchange) -> None:
        if not (failure.check(CancelledError) and exchange.gone):
            self._log.failure("the rest of an answer has failed", failure=failure)
            exchange.end_short()

    async def _send_rest(self, exchange: Exchange, ahead: Ahead) -> None:
        try:
            body = self._warm.body(ahead.small)
        except OSError:
            exchange.end_short()
            return
        await send_rest(exchange, body, ahead.sent)

    def _answer(self, channel: RegistryChannel, habit: Habit, line: bytes) -> bool:
        target = self._targets.get((habit.host, line)) or self._meant(habit.host, line)
        if target is None:
            return False
        key = habit.keys.get(target.where) or self._key(habit, target)
        small = self._warm.find(key, target.link)
        if small is None:
            return False
        now = self._wall()
        head = self._begin(now) + (target.head or self._head(target, small))
        size = small.size
        if target.method == "HEAD":
            channel.send_now(head)
            size = 0
        elif size <= _ONE_PIECE:
            body = small.read_now()
            if body is None:
                return False
            channel.send_now(head + body)
        else:
            sent = self._send_file(channel, head, small)
            if sent is None:
                return False
            if sent < size:
                channel.ahead = Ahead(target, small, sent)
                channel.take_up(line, habit.rest)
                return True
        self._note(habit, target, size, now)
        if size:
            self._warm.pulled(small)
        return True

    @staticmethod
    def _send_file(channel: RegistryChannel, head: bytes, small: Small) -> int | None:
        transport = channel.transport
        if not isinstance(transport, FileTransport) or not small.is_in_memory():
            return None
        return transport.send_now(head, small.descriptor, small.size)

    def _note(self, habit: Habit, target: _Target, size: int, now: float) -> None:
        if not self._answered:
            self._timer.callLater(0, self.tell)
        self._answered.append(
            Access(
                address=habit.address,
                moment=now,
                method=target.method,
                uri=target.uri,
                protocol="HTTP/1.1",
                status=200,
                sent=size,
                referer=habit.referer,
                agent=habit.agent,
                cache="hit",
                seconds=0.0,
                upstream=target.link.origin,
            )
        )

    def tell(self) -> None:
        """
        Write what has been answered.
        """
        answered, self._answered = self._answered, []
        if answered:
            self._written(answered)

    def _begin(self, now: float) -> bytes:
        second = int(now)
        if second != self._second:
            self._second = second
            self._beginning = b"HTTP/1.1 200 OK\r\nDate: " + datetimeToString(now) + b"\r\n"
        return self._beginning

    def _head(self, target: _Target, small: Small) -> bytes:
        described = Described(small.digest, small.size, None, "hit")
        fields = [
            *self._extra,
            ("Docker-Distribution-Api-Version", API_VERSION),
            *headers_of(described, "blobs").items(),
            ("Content-Length", str(small.size)),
        ]
        target.head = (
            b"".join(b"%b: %b\r\n" % (n.encode("ascii"), v.encode("utf-8")) for n, v in fields) + b"\r\n"
        )
        return target.head

    def _key(self, habit: Habit, target: _Target) -> bytes:
        if len(habit.keys) >= _MOST_KEYS:
            habit.keys.clear()
        credential = self._credential_of(target.registry, habit.authorization)
        key = habit.keys[target.where] = self._warm.key(target.link, credential)
        return key

    def _meant(self, host: str, line: bytes) -> _Target | None:
        match = _LINE.fullmatch(line)
        if match is None:
            return None
        method, path, namespace = (part.decode("ascii") if part else None for part in match.groups())
        if path is None or not path.startswith(self._prefix + "/"):
            return None
        try:
            route = parse(path[len(self._prefix) :])
            chosen = self._origins.choose(route, namespace, host)
        except CacheError:
            return None
        upstream, content = chosen.registry.upstream, chosen.route
        if not isinstance(content, Content) or content.kind != "blobs":
            return None
        if not allowed(content.repository, upstream.allow, upstream.deny):
            return None
        link = Link(upstream.origin, content.repository, content.kind, content.digest)
        uri = harmless(line.split(b" ")[1].decode("ascii"))
        target = _Target(method or "", uri, chosen.registry, link, (link.origin, link.repository))
        if len(self._targets) >= _MOST_TARGETS:
            self._targets.clear()
        self._targets[host, line] = target
        return target


_STATUS: Final = "contentcache; hit"


def _read(rest: bytes, address: str) -> Habit:
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
