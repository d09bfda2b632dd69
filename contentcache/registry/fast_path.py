"""
The fast path: answers a complete, simple ``GET`` or ``HEAD`` of a hot blob inside ``dataReceived``, if the blob, or
the part of it that is asked for, is small.

Simple is what common clients send: one request line, at most one range, no header about conditions or framing.
Everything else, and whatever cannot be decided from memory, becomes a request of :mod:`contentcache.registry.api`,
which decides anew. Both give the same response.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

from twisted.logger import Logger
from twisted.web.http import datetimeToString

from contentcache.core.header_policy import first
from contentcache.core.ports import Clock, Timer
from contentcache.core.ranges import RangeSpec, Span
from contentcache.core.response_end import COMPLETE, ResponseEnd
from contentcache.delivery.hot_blobs import LARGEST, HotBlob, HotBlobs, IsAuthorized
from contentcache.delivery.responses import ContentHead, Outcome
from contentcache.jose.blob_tokens import VerifiedBlobToken
from contentcache.registry.admission import Admission
from contentcache.registry.fast_path_requests import (
    ParsedHeaders,
    ParsedTarget,
    TargetCache,
    parse_headers,
    split_range,
)
from contentcache.registry.remaining_body import RemainingBody
from contentcache.registry.responses import headers_of
from contentcache.server.access_log import AccessLog, AccessLogEntry, logged_user
from contentcache.server.channel import ServerChannel
from contentcache.server.errors import REGISTRY_HEADERS
from contentcache.server.stall_timer import StallTimer
from contentcache.telemetry.request_ids import HEADER, new_id, usable_id
from contentcache.wire.sendfile import FileTransport

#: Most bytes of a simple head.
_MOST_HEAD_BYTES: Final = 4096
#: Number of repositories whose authorizers are cached for one connection; a full cache is cleared.
_MOST_AUTHORIZERS: Final = 64
#: A body of at most this many bytes is sent with its head in one piece, a larger one with ``sendfile``.
_ONE_PIECE: Final = 16 << 10
#: The status line and ``Date``, the id of the request, and the fields that are the same for all.
_HEAD: Final = b"%b" + HEADER.encode() + b": %b\r\n%b"


class BlobFastPath:
    """
    Answers simple requests for hot blobs.

    ``access_log`` gets the records of one turn of the reactor; ``extra`` are headers of each response.
    """

    _log = Logger()

    def __init__(
        self,
        hot_blobs: HotBlobs,
        targets: TargetCache,
        admission: Admission,
        *,
        access_log: AccessLog,
        timer: Timer,
        wall: Clock,
    ) -> None:
        self._hot_blobs = hot_blobs
        self._targets = targets
        self._admission = admission
        self._is_local = admission.is_local
        self._access_log = access_log
        self._extra: Sequence[tuple[str, str]] = ()
        self._stall_timeout = 0.0
        self._timer = timer
        self._wall = wall
        self._hits: list[AccessLogEntry] = []
        self._flush_scheduled = False
        #: When what is being answered was received.
        self._received_at = 0.0
        self._second = -1
        self._status_lines = b"", b""
        #: What was found in this turn of the reactor: unchanged files, and pieces in the page cache.
        self._unchanged: set[HotBlob] = set()
        self._in_memory: set[tuple[HotBlob, int, int]] = set()

    def configure(self, extra: Mapping[str, tuple[str, ...]], stall_timeout: float) -> None:
        """
        Use the headers ``extra`` in each response, and what the configuration says of origins, from now on. A
        client that reads nothing for ``stall_timeout`` seconds is disconnected.
        """
        ours = {name.lower() for name in (HEADER, *REGISTRY_HEADERS)}
        self._extra = [(n, value) for n, values in extra.items() if n.lower() not in ours for value in values]
        self._stall_timeout = stall_timeout
        self._targets.clear()

    def answer(self, channel: ServerChannel, data: bytes) -> bytes:
        """Answer the simple requests at the start of ``data``; returns what is left of it."""
        self._received_at = self._timer.seconds()
        position = 0
        limit = min(_MOST_HEAD_BYTES, channel.totalHeadersSize)
        while (end := data.find(b"\r\n\r\n", position, position + limit)) >= 0:
            line_end = data.find(b"\r\n", position)
            raw = data[line_end + 2 : end]
            headers, part = channel.fast_path_headers, None
            if headers is None or headers.raw != raw:
                raw, part = split_range(raw)
                if headers is None or headers.raw != raw:
                    headers = channel.fast_path_headers = parse_headers(raw, channel.address)
            if not headers.simple:
                break
            try:
                answered = self._answer(channel, headers, data[position:line_end], part)
            except Exception:  # noqa: BLE001  # this client's response ends short, the others get theirs
                self._log.failure("fast path failed", client=channel.address)
                channel.end()
                return b""
            if not answered:
                break
            position = end + 4
            if position == len(data):
                return b""
            if not channel.is_idle:
                break
        return data[position:] if position else data

    def flush(self) -> None:
        """Write the access log records of this turn of the reactor, and forget what was found in it."""
        self._flush_scheduled = False
        hits, self._hits = self._hits, []
        self._unchanged.clear()
        self._in_memory.clear()
        if hits:
            self._access_log.log_hits(hits)

    def _answer(
        self, channel: ServerChannel, headers: ParsedHeaders, line: bytes, part: RangeSpec | None
    ) -> bool:
        token = None
        if b"token=" in line:
            target, token = self._targets.find_signed(headers.host, line)
        else:
            target = self._targets.find(headers.host, line)
        if target is None:
            return False
        is_authorized = (
            self._authorizer(headers, target) if token is None else self._hot_blobs.signed_authorizer
        )
        blob = self._hot_blobs.find(target.link, is_authorized) if is_authorized is not None else None
        if blob is None or not self._is_unchanged(blob):
            return False
        entry = self._entry(headers, target, token)
        if target.method == "HEAD":
            start = self._starts(entry.timestamp)[0]
            channel.send_now(
                _HEAD % (start, entry.request_id.encode(), target.head or self._head(target, blob))
            )
            self._record(entry, self._received_at)
            return True
        return self._send(channel, entry, target, blob, part)

    def _authorizer(self, headers: ParsedHeaders, target: ParsedTarget) -> IsAuthorized | None:
        """What tells whether a client without a signed URL may read a blob of the target's repository."""
        if self._is_local and not self._admission.allows_cached(target.scope, headers.authorization):
            return None
        is_authorized = headers.authorizers.get(target.repository_key)
        if is_authorized is None:
            credential = self._admission.credential(target.registry, headers.authorization)
            if len(headers.authorizers) >= _MOST_AUTHORIZERS:
                headers.authorizers.clear()
            subject = target.registry.subject(target.content.repository, credential)
            is_authorized = self._hot_blobs.authorizer(subject)
            headers.authorizers[target.repository_key] = is_authorized
            headers.user = self._admission.user(headers.authorization)
        return is_authorized

    def _send(
        self,
        channel: ServerChannel,
        entry: AccessLogEntry,
        target: ParsedTarget,
        blob: HotBlob,
        part: RangeSpec | None,
    ) -> bool:
        if part is None:
            start, stop = 0, blob.size
            first, fields = self._starts(entry.timestamp)[0], target.head or self._head(target, blob)
        else:
            span = part.within(blob.size)
            if span is None:
                return False
            entry.status, start, stop = 206, span.start, span.stop
            first, fields = self._starts(entry.timestamp)[1], self._part_head(target, blob, span)
        length = stop - start
        if length > LARGEST:
            return False
        head = _HEAD % (first, entry.request_id.encode(), fields)
        entry.sent = entry.length = length
        if length <= _ONE_PIECE:
            body = blob.read_now(start, stop)
            if body is None:
                return False
            channel.send_now(head + body)
        else:
            sent = self._send_file(channel, head, blob, start, stop)
            if sent is None:
                return False
            if sent < length:
                stall_timer = StallTimer(
                    channel.transport, self._timer, self._stall_timeout, channel.abort_stalled
                )
                received_at = self._received_at
                entry.first_byte = self._timer.seconds() - received_at
                span = Span(start, stop, blob.size)
                record = partial(self._record_rest, entry, target, start, received_at=received_at)
                RemainingBody(
                    channel, self._hot_blobs, blob, span, stall_timer=stall_timer, record=record
                ).send(sent)
                return True
        self._record(entry, self._received_at)
        self._hot_blobs.record_pull(blob, entry.timestamp)
        return True

    def _is_unchanged(self, blob: HotBlob) -> bool:
        if blob not in self._unchanged:
            if not blob.is_there():
                self._hot_blobs.drop(blob.digest)
                return False
            self._schedule_flush()
            self._unchanged.add(blob)
        return True

    def _send_file(
        self, channel: ServerChannel, head: bytes, blob: HotBlob, start: int, stop: int
    ) -> int | None:
        transport, piece = channel.transport, (blob, start, stop)
        if not isinstance(transport, FileTransport):
            return None
        if piece not in self._in_memory:
            if not blob.is_in_memory(start, stop):
                return None
            self._schedule_flush()
            self._in_memory.add(piece)
        return transport.send_now(head, blob.descriptor, start, stop)

    def _entry(
        self, headers: ParsedHeaders, target: ParsedTarget, token: VerifiedBlobToken | None
    ) -> AccessLogEntry:
        """The record of a response that is about to be sent, complete and without a body so far."""
        return AccessLogEntry(
            address=headers.address,
            timestamp=self._wall(),
            method=target.method,
            uri=target.uri,
            protocol="HTTP/1.1",
            status=200,
            user=headers.user if token is None else logged_user(token.subject),
            referer=headers.referer,
            agent=headers.agent,
            cache="hit",
            seconds=0.0,
            upstream=target.link.origin,
            sent=0,
            length=0,
            end=COMPLETE,
            request_id=(token is not None and usable_id(token.request_id)) or new_id(),
        )

    def _record(self, entry: AccessLogEntry, received_at: float) -> None:
        """A response has ended; without ``first_byte`` it was sent at once."""
        self._schedule_flush()
        entry.seconds = self._timer.seconds() - received_at
        entry.first_byte = entry.first_byte or entry.seconds
        self._hits.append(entry)

    def _record_rest(
        self,
        entry: AccessLogEntry,
        target: ParsedTarget,
        start: int,
        sent: int,
        end: ResponseEnd,
        *,
        received_at: float,
    ) -> None:
        """A response from byte ``start`` on has ended that took more than one turn, perhaps short."""
        entry.sent, entry.end = sent, end
        self._record(entry, received_at)
        if end is not COMPLETE:
            link = target.link
            self._access_log.log_incomplete(entry, link.repository, str(link.digest), start + sent)

    def _schedule_flush(self) -> None:
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._timer.callLater(0, self.flush)

    # Heads of responses.

    def _starts(self, now: float) -> tuple[bytes, bytes]:
        """The status line and ``Date``, of a 200 and of a 206."""
        second = int(now)
        if second != self._second:
            self._second = second
            date = b"\r\nDate: " + datetimeToString(now) + b"\r\n"
            self._status_lines = b"HTTP/1.1 200 OK" + date, b"HTTP/1.1 206 Partial Content" + date
        return self._status_lines

    def _head(self, target: ParsedTarget, blob: HotBlob) -> bytes:
        target.head = self._fields(target, blob) + b"Content-Length: %d\r\n\r\n" % blob.size
        return target.head

    def _part_head(self, target: ParsedTarget, blob: HotBlob, span: Span) -> bytes:
        fields = f"Content-Length: {span.length}\r\nContent-Range: {span.content_range()}\r\n\r\n"
        return self._fields(target, blob) + fields.encode("ascii")

    def _fields(self, target: ParsedTarget, blob: HotBlob) -> bytes:
        if not target.fields:
            headers = headers_of(ContentHead(blob.digest, blob.size, None, Outcome.HIT), "blobs")
            of_blob = ((name, first(headers, name) or "") for name in headers)
            fields = [*self._extra, *REGISTRY_HEADERS.items(), *of_blob]
            target.fields = b"".join(
                b"%b: %b\r\n" % (n.encode("ascii"), v.encode("utf-8")) for n, v in fields
            )
        return target.fields
