"""Access log and metrics of requests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from attrs import define
from twisted.logger import Logger, LogLevel

from contentcache.core.client_address import shown_address
from contentcache.core.health_probes import is_probe
from contentcache.core.http_auth import credentials_for, decode_basic
from contentcache.core.ports import Clock, Timer
from contentcache.core.ranges import parse_content_range
from contentcache.core.response_end import COMPLETE, ResponseEnd
from contentcache.server.request import ServerRequest
from contentcache.telemetry.logging import sanitize
from contentcache.telemetry.metrics import Meter

#: Characters of a user name.
_LONGEST_USER: Final = 128
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


@define
class AccessLogEntry:
    """
    One answered request. ``seconds`` from the end of its head to the last byte handed to the kernel,
    ``first_byte`` to the first one, known of hits of the fast path; ``sent`` bytes of body, of ``length`` that the
    response was to have (``None``: its head did not say); ``end`` is how it ended. ``served_by`` is the upstream
    host, and ``download`` the id of the shared download, that the content came from.

    Not frozen: creating a frozen one costs as much as writing its line.
    """

    address: str
    timestamp: float
    method: str
    uri: str
    protocol: str
    status: int
    user: str
    referer: str
    agent: str
    cache: str
    seconds: float
    upstream: str
    sent: int
    length: int | None
    end: ResponseEnd
    request_id: str
    served_by: str = "-"
    download: str = "-"
    first_byte: float = 0.0

    def line(self) -> str:
        """Apache's combined format, with cache status, seconds, origin, and how the response ended."""
        length = "-" if self.length is None else self.length
        time = _apache_time(int(self.timestamp))
        return (
            f'{self.address or "-"} - {self.user} [{time}] "{self.method} {self.uri} {self.protocol}" '
            f'{self.status} {self.sent} "{self.referer}" "{self.agent}" cache="{self.cache}" '
            f"seconds={self.seconds:.3f} upstream={self.upstream} sent={self.sent} of={length} end={self.end.how} "
            f"served_by={self.served_by} request_id={self.request_id} download={self.download}"
        )

    def fields(self) -> Mapping[str, object]:
        """The same as JSON values."""
        return {
            "remote": self.address,
            "user": self.user,
            "method": self.method,
            "uri": self.uri,
            "status": self.status,
            "bytes": self.sent,
            "referer": self.referer,
            "agent": self.agent,
            "cache": self.cache,
            "seconds": round(self.seconds, 6),
            "upstream": self.upstream,
            "sent": self.sent,
            "of": self.length,
            "end": self.end.how,
            "served_by": self.served_by,
            "request_id": self.request_id,
            "download": self.download,
        }


class AccessLog:
    """Records requests: in the metrics and, with ``lines``, in the log; health probes only with ``probes``."""

    _log = Logger(namespace="contentcache.access")
    _event_log = Logger()

    def __init__(self, meter: Meter, timer: Timer, wall: Clock, *, lines: bool, probes: bool = False) -> None:
        self._meter = meter
        self._timer = timer
        self._wall = wall
        self.lines = lines
        self.probes = probes
        #: Bound once: each look at a Logger through an instance makes a new one.
        self._write = self._log.info

    def __call__(self, request: ServerRequest) -> None:
        """Record a request whose response has ended, complete or not."""
        seconds = max(0.0, self._timer.seconds() - request.received_at)
        method = request.method.decode("latin-1")
        method_label = method if method in _METHODS else "other"
        first_byte = None
        if request.first_byte_at is not None:
            first_byte = max(0.0, request.first_byte_at - request.received_at)
        self._meter.answered(
            method_label,
            request.kind,
            request.code,
            seconds,
            max(0, request.sentLength - request.counted),
            upstream=request.upstream,
            first_byte=first_byte,
        )
        is_complete = request.end is COMPLETE
        if not is_complete:
            request.was_not_stored()
        elif not self.lines or (not self.probes and _is_probe(request)):
            return
        access = AccessLogEntry(
            address=_address(request),
            timestamp=self._wall(),
            method=sanitize(method, 32),
            uri=sanitize(request.uri.decode("latin-1")),
            protocol=sanitize(request.clientproto.decode("latin-1"), 16),
            status=request.code,
            user=logged_user(request.user_name) if request.user_name else user_of(_authorization(request)),
            referer=_header(request, "Referer"),
            agent=_header(request, "User-Agent"),
            cache=request.cache_status.removeprefix("contentcache").removeprefix("; ") or "-",
            seconds=seconds,
            upstream=request.upstream,
            sent=request.sentLength,
            length=request.body_length,
            end=request.end,
            request_id=request.request_id,
            served_by=request.served_by,
            download=request.provenance.download,
        )
        if self.lines:
            self._write("access", access=access)
        if not is_complete:
            offset = _first_byte(request) + request.sentLength
            self.log_incomplete(access, request.repository, request.digest, offset)

    def count_running(self, requests: Iterable[ServerRequest]) -> None:
        """Count what responses have sent since they were counted last: some take hours."""
        for request in requests:
            sent = request.body_sent
            if sent > request.counted:
                self._meter.sent(request.upstream, request.kind, sent - request.counted)
                request.counted = sent

    def log_incomplete(self, access: AccessLogEntry, repository: str, digest: str, offset: int) -> None:
        """
        Record that a response has ended before its last byte, whichever way it was sent; ``offset`` is the first
        byte of the content that was not sent.
        """
        end = access.end
        self._meter.response_incomplete(end.how)
        self._event_log.emit(
            LogLevel.info if end.how == "client" else LogLevel.warn,
            "response incomplete",
            by=end.how,
            client=access.address,
            repository=repository,
            digest=digest,
            upstream=access.upstream,
            served_by=access.served_by,
            offset=offset,
            sent=access.sent,
            of=access.length,
            reason=end.reason,
            request_id=access.request_id,
            download=access.download,
        )

    def log_hits(self, hits: Sequence[AccessLogEntry]) -> None:
        """Record requests that the fast path has answered."""
        self._meter.hits(
            [(hit.method, hit.status, hit.sent, hit.upstream, hit.first_byte, hit.seconds) for hit in hits]
        )
        if self.lines:
            self._write("access", accesses=hits)


def _first_byte(request: ServerRequest) -> int:
    """The first byte of the content that a response has, by its ``Content-Range``."""
    (said,) = request.responseHeaders.getRawHeaders(b"Content-Range") or (b"",)
    part = parse_content_range(said.decode("latin-1"))
    return 0 if part is None else part.first


def user_of(authorization: str | None) -> str:
    """
    The user name of ``Basic`` credentials, as the client claims it, for the access log; else "-".

    Some registries take a token as the user name, beside the same or an empty password: that is not logged.

    >>> user_of("Basic YWxpY2U6YTpi"), user_of("Basic dG9rZW46"), user_of("Bearer a.b.c"), user_of(None)
    ('alice', '-', '-', '-')
    """
    pair = decode_basic(credentials_for("Basic", authorization) or "")
    if pair is None or pair[1] in {b"", pair[0]}:
        return "-"
    return logged_user(pair[0].decode("utf-8", "replace"))


def logged_user(name: str) -> str:
    """
    A user name as one word; a long one, which may be a secret, is left out.

    >>> logged_user("Jo Ann"), logged_user("x" * 200), logged_user("")
    ('Jo_Ann', '-', '-')
    """
    return "_".join(sanitize(name).split()) or "-" if len(name) <= _LONGEST_USER else "-"


def _authorization(request: ServerRequest) -> str | None:
    values = request.requestHeaders.getRawHeaders(b"Authorization") or ()
    return values[0].decode("latin-1") if len(values) == 1 else None


def _is_probe(request: ServerRequest) -> bool:
    target, agents = (
        request.uri.decode("latin-1"),
        request.requestHeaders.getRawHeaders(b"User-Agent") or (b"",),
    )
    return is_probe(
        request.method.decode("latin-1"),
        target.partition("?")[0],
        agents[0].decode("latin-1"),
        request.code,
        has_credential=request.requestHeaders.hasHeader(b"Authorization"),
    )


def _header(request: ServerRequest, name: str) -> str:
    values = request.requestHeaders.getRawHeaders(name.encode("ascii"))
    return sanitize(values[0].decode("latin-1"), 256) if values else "-"


def _address(request: ServerRequest) -> str:
    channel = request.channel
    if request.client_address:
        return request.client_address
    return "-" if channel is None else shown_address(getattr(channel, "address", "-"))


@lru_cache(maxsize=16)
def _apache_time(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%d/%b/%Y:%H:%M:%S +0000")
