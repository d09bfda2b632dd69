"""
The short way: a complete, simple ``GET`` or ``HEAD`` of a blob that was served lately is answered from inside
``dataReceived``, if it is small or only a small part of it is wanted.

Simple means: what good clients send, field for field. One request line, at most one part, fields that say
nothing about conditions or framing. Everything else, and whatever is not known in memory, takes the long way,
which decides again from the start. The two answer alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from twisted.logger import Logger
from twisted.web.http import datetimeToString

from contentcache.core.header_policy import first
from contentcache.core.ports import Clock, Timer
from contentcache.core.ranges import Span, Wish
from contentcache.delivery.hot_blobs import LARGEST, HotBlob, HotBlobs, IsAuthorized
from contentcache.delivery.responses import ContentHead
from contentcache.journal import Access
from contentcache.registry.admission import Admission
from contentcache.registry.fast_path_headers import Habit, read_habit, split_range
from contentcache.registry.fast_path_targets import Target, Targets
from contentcache.registry.fast_path_transfer import Rest
from contentcache.registry.responses import headers_of
from contentcache.server.channel import ServerChannel
from contentcache.server.errors import EVERYWHERE
from contentcache.server.stall_timer import Watch
from contentcache.wire.sendfile import FileTransport

#: Bytes of a head that can be simple.
_LONGEST: Final = 4096
#: So many repositories that one client has asked for are remembered until they are all forgotten.
_MOST_WAYS: Final = 64
#: Bodies of fewer bytes go out with their head in one piece.
_ONE_PIECE: Final = 16 << 10


class BlobFastPath:
    """
    Answers what it can, of what a channel gets.

    ``written`` hears of answers, those of one turn of the reactor at once; ``extra`` goes out with each.
    """

    _log = Logger()

    def __init__(
        self,
        hot_blobs: HotBlobs,
        targets: Targets,
        admission: Admission,
        *,
        written: Callable[[list[Access]], None],
        extra: Mapping[str, tuple[str, ...]],
        timer: Timer,
        wall: Clock,
        patience: float,
    ) -> None:
        self._hot_blobs = hot_blobs
        self._targets = targets
        self._admission = admission
        self._is_local = admission.is_local
        self._written = written
        ours = {name.lower() for name in EVERYWHERE}
        self._extra = [(n, value) for n, values in extra.items() if n.lower() not in ours for value in values]
        self._timer = timer
        self._wall = wall
        self._patience = patience
        self._answered: list[Access] = []
        self._in_turn = False
        self._second = -1
        self._beginnings = b"", b""
        #: What was seen in this turn of the reactor: a file that has its name, a piece that is in memory.
        self._there: set[HotBlob] = set()
        self._in_memory: set[tuple[HotBlob, int, int]] = set()

    def answer(self, channel: ServerChannel, data: bytes) -> bytes:
        """Answer the requests that ``data`` begins with, as far as they are simple; what is left of it."""
        position = 0
        longest = min(_LONGEST, channel.totalHeadersSize)
        while (end := data.find(b"\r\n\r\n", position, position + longest)) >= 0:
            line_end = data.find(b"\r\n", position)
            rest = data[line_end + 2 : end]
            habit, part = channel.fast_path_headers, None
            if habit is None or habit.rest != rest:
                rest, part = split_range(rest)
                if habit is None or habit.rest != rest:
                    habit = channel.fast_path_headers = read_habit(rest, channel.address)
            if not habit.simple:
                break
            try:
                answered = self._answer(channel, habit, data[position:line_end], part)
            except Exception:  # noqa: BLE001  # this client's answer ends short, the others get theirs
                self._log.failure("fast path failed", client=channel.address)
                channel.end()
                return b""
            if not answered:
                break
            position = end + 4
            if position == len(data):
                return b""
            if not channel.is_free:
                break
        return data[position:] if position else data

    def flush(self) -> None:
        """The turn of the reactor is over: write what has been answered in it."""
        self._in_turn = False
        answered, self._answered = self._answered, []
        self._there.clear()
        self._in_memory.clear()
        if answered:
            self._written(answered)

    def _answer(self, channel: ServerChannel, habit: Habit, line: bytes, part: Wish | None) -> bool:
        signed = b"token=" in line
        find = self._targets.find_signed if signed else self._targets.find
        target = find(habit.host, line)
        if target is None:
            return False
        is_authorized = self._hot_blobs.signed_authorizer if signed else self._authorizer(habit, target)
        hot_blob = self._hot_blobs.find(target.link, is_authorized) if is_authorized is not None else None
        if hot_blob is None or not self._is_there(hot_blob):
            return False
        if target.method == "HEAD":
            now = self._wall()
            channel.send_now(self._begin(now)[0] + (target.head or self._head(target, hot_blob)))
            self._note(habit, target, now, 200, 0)
            return True
        return self._send(channel, habit, target, hot_blob, part)

    def _authorizer(self, habit: Habit, target: Target) -> IsAuthorized | None:
        """What tells whether a client may have something, if it is not by a signed URL."""
        if self._is_local and not self._admission.allows_cached(target.scope, habit.authorization):
            return None
        is_authorized = habit.ways.get(target.where)
        if is_authorized is None:
            credential = self._admission.credential(target.registry, habit.authorization)
            if len(habit.ways) >= _MOST_WAYS:
                habit.ways.clear()
            is_authorized = habit.ways[target.where] = self._hot_blobs.authorizer(target.link, credential)
        return is_authorized

    def _send(
        self, channel: ServerChannel, habit: Habit, target: Target, hot_blob: HotBlob, part: Wish | None
    ) -> bool:
        now = self._wall()
        if part is None:
            status, start, stop = 200, 0, hot_blob.size
            head = self._begin(now)[0] + (target.head or self._head(target, hot_blob))
        else:
            span = part.within(hot_blob.size)
            if span is None:
                return False
            status, start, stop = 206, span.start, span.stop
            head = self._begin(now)[1] + self._part_head(target, hot_blob, span)
        length = stop - start
        if length > LARGEST:
            return False
        if length <= _ONE_PIECE:
            body = hot_blob.read_now(start, stop)
            if body is None:
                return False
            channel.send_now(head + body)
        else:
            sent = self._send_file(channel, head, hot_blob, start, stop)
            if sent is None:
                return False
            if sent < length:
                watch = Watch(channel.transport, self._timer, self._patience, channel.forceAbortClient)
                note = partial(self._note, habit, target, now, status)
                wanted = Span(start, stop, hot_blob.size)
                Rest(channel, self._hot_blobs, hot_blob, wanted, watch=watch, note=note).send(sent)
                return True
        self._note(habit, target, now, status, length)
        self._hot_blobs.record_pull(hot_blob, now)
        return True

    def _is_there(self, hot_blob: HotBlob) -> bool:
        if hot_blob not in self._there:
            if not hot_blob.is_there():
                self._hot_blobs.drop(hot_blob.digest)
                return False
            self._expect_end()
            self._there.add(hot_blob)
        return True

    def _send_file(
        self, channel: ServerChannel, head: bytes, hot_blob: HotBlob, start: int, stop: int
    ) -> int | None:
        transport, piece = channel.transport, (hot_blob, start, stop)
        if not isinstance(transport, FileTransport):
            return None
        if piece not in self._in_memory:
            if not hot_blob.is_in_memory(start, stop):
                return None
            self._expect_end()
            self._in_memory.add(piece)
        return transport.send_now(head, hot_blob.descriptor, start, stop)

    def _note(self, habit: Habit, target: Target, now: float, status: int, size: int) -> None:
        self._expect_end()
        self._answered.append(
            Access(
                address=habit.address,
                moment=now,
                method=target.method,
                uri=target.uri,
                protocol="HTTP/1.1",
                status=status,
                sent=size,
                referer=habit.referer,
                agent=habit.agent,
                cache="hit",
                seconds=0.0,
                upstream=target.link.origin,
            )
        )

    def _expect_end(self) -> None:
        if not self._in_turn:
            self._in_turn = True
            self._timer.callLater(0, self.flush)

    # Heads.

    def _begin(self, now: float) -> tuple[bytes, bytes]:
        """The first two lines, of a whole and of a part."""
        second = int(now)
        if second != self._second:
            self._second = second
            date = b"\r\nDate: " + datetimeToString(now) + b"\r\n"
            self._beginnings = b"HTTP/1.1 200 OK" + date, b"HTTP/1.1 206 Partial Content" + date
        return self._beginnings

    def _head(self, target: Target, hot_blob: HotBlob) -> bytes:
        target.head = self._fields(target, hot_blob) + b"Content-Length: %d\r\n\r\n" % hot_blob.size
        return target.head

    def _part_head(self, target: Target, hot_blob: HotBlob, span: Span) -> bytes:
        named = span.content_range().encode("ascii")
        return self._fields(target, hot_blob) + b"Content-Length: %d\r\nContent-Range: %b\r\n\r\n" % (
            span.length,
            named,
        )

    def _fields(self, target: Target, hot_blob: HotBlob) -> bytes:
        if not target.fields:
            blob = headers_of(ContentHead(hot_blob.digest, hot_blob.size, None, "hit"), "blobs")
            fields = [
                *self._extra,
                *EVERYWHERE.items(),
                *((name, first(blob, name) or "") for name in blob),
            ]
            target.fields = b"".join(
                b"%b: %b\r\n" % (n.encode("ascii"), v.encode("utf-8")) for n, v in fields
            )
        return target.fields
