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
from functools import partial
from typing import Final

from attrs import define
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web.http import datetimeToString

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
from contentcache.web.channel import RegistryChannel
from contentcache.web.errors import API_VERSION
from contentcache.web.habits import Habit, read_habit
from contentcache.web.origins import Origins
from contentcache.web.sending import headers_of
from contentcache.web.watch import Watch
from contentcache.wire.sendfile import FileTransport

#: Bytes of a head that can be simple.
_LONGEST: Final = 4096
#: So many requests of all clients, and repositories of one, are remembered until they are all forgotten.
_MOST_TARGETS: Final = 4096
_MOST_KEYS: Final = 64
#: Bodies of fewer bytes go out with their head in one piece.
_ONE_PIECE: Final = 16 << 10
_LINE: Final = re.compile(rb"(GET|HEAD) (/[!-~]*/blobs/[!->@-~]*)(?:\?ns=([A-Za-z0-9.:_-]+))? HTTP/1\.1")


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


class _Rest:
    """
    What is left of an answer whose head and beginning have gone out. It stands in the place of a request.
    """

    def __init__(
        self, channel: RegistryChannel, warm: Warm, small: Small, watch: Watch, note: Callable[[int], None]
    ) -> None:
        self._channel = channel
        self._warm = warm
        self._small = small
        self._watch = watch
        self._note = note
        self._begun = 0
        self._sending: Deferred[int] | None = None

    def send(self, start: int) -> None:
        """
        Send what comes from ``start`` on, as fast as the client takes it.
        """
        self._begun = start
        self._channel.occupy(self)
        self._warm.hold(self._small)
        self._watch.start()
        self._sending = self._channel.transport.send_file(self._small.descriptor, start, self._small.size)
        # It fails with the connection only, which is heard of otherwise.
        self._sending.addCallbacks(self._sent, lambda _failure: None)

    def connectionLost(self, _reason: Failure) -> None:
        """The client has left, or is not waited for any longer. May be called twice."""
        if self._sending is not None:
            self._sending.cancel()
            self._end(self._begun)

    def _sent(self, count: int) -> None:
        sent = self._begun + count
        self._end(sent)
        if sent < self._small.size:
            self._channel.end()  # the file is shorter than it was
        else:
            self._channel.requestDone(self)  # type: ignore[no-untyped-call]  # Twisted's

    def _end(self, sent: int) -> None:
        self._sending = None
        self._watch.stop()
        self._warm.release(self._small)
        self._note(sent)


class ShortWay:
    """
    Answers what it can, of what a channel gets.

    ``credential_of`` says in whose name a request is made, ``None`` where that takes the long way;
    ``written`` hears of answers, those of one turn of the reactor at once; ``extra`` goes out with each.
    """

    def __init__(
        self,
        warm: Warm,
        origins: Origins,
        *,
        credential_of: Callable[[Registry, str | None], Credential | None],
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
        longest = min(_LONGEST, channel.totalHeadersSize)
        while (end := data.find(b"\r\n\r\n", position, position + longest)) >= 0:
            line_end = data.find(b"\r\n", position)
            rest = data[line_end + 2 : end]
            habit = channel.habit
            if habit is None or habit.rest != rest:
                habit = channel.habit = read_habit(rest, channel.address)
            if not habit.simple or not self._answer(channel, habit, data[position:line_end]):
                break
            position = end + 4
            if position == len(data):
                return b""
            if not channel.is_free:
                break
        return data[position:] if position else data

    def _answer(self, channel: RegistryChannel, habit: Habit, line: bytes) -> bool:
        target = self._targets.get((habit.host, line)) or self._meant(habit.host, line)
        if target is None:
            return False
        key = habit.keys.get(target.where) or self._key(habit, target)
        small = self._warm.find(key, target.link) if key is not None else None
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
                watch = Watch(channel.transport, self._timer, self._patience, channel.forceAbortClient)
                note = partial(self._note, habit, target, now)
                _Rest(channel, self._warm, small, watch, note).send(sent)
                return True
        self._note(habit, target, now, size)
        if size:
            self._warm.pulled(small)
        return True

    @staticmethod
    def _send_file(channel: RegistryChannel, head: bytes, small: Small) -> int | None:
        transport = channel.transport
        if not isinstance(transport, FileTransport) or not small.is_in_memory():
            return None
        return transport.send_now(head, small.descriptor, small.size)

    def _note(self, habit: Habit, target: _Target, now: float, size: int) -> None:
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

    def _key(self, habit: Habit, target: _Target) -> bytes | None:
        credential = self._credential_of(target.registry, habit.authorization)
        if credential is None:
            return None
        if len(habit.keys) >= _MOST_KEYS:
            habit.keys.clear()
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
