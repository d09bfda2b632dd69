"""Access log and metrics of requests."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.logger import Logger

from contentcache.core.client_address import shown_address
from contentcache.core.ports import Clock, Timer
from contentcache.server.request import ServerRequest
from contentcache.telemetry.logging import Access, harmless
from contentcache.telemetry.metrics import Meter

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class AccessLog:
    """Records requests: in the metrics and, with ``lines``, in the log."""

    _log = Logger(namespace="contentcache.access")

    def __init__(self, meter: Meter, timer: Timer, wall: Clock, *, lines: bool) -> None:
        self._meter = meter
        self._timer = timer
        self._wall = wall
        self._lines = lines
        #: Bound once: each look at a Logger through an instance makes a new one.
        self._write = self._log.info

    def __call__(self, request: ServerRequest) -> None:
        """Record a request whose response has ended, complete or short."""
        seconds = max(0.0, self._timer.seconds() - request.received_at)
        method = request.method.decode("latin-1")
        method_label = method if method in _METHODS else "other"
        self._meter.answered(
            method_label, request.kind, request.code, seconds, request.sentLength, upstream=request.upstream
        )
        if not self._lines:
            return
        access = Access(
            address=_address(request),
            moment=self._wall(),
            method=harmless(method, 32),
            uri=harmless(request.uri.decode("latin-1")),
            protocol=harmless(request.clientproto.decode("latin-1"), 16),
            status=request.code,
            sent=request.sentLength,
            referer=_header(request, "Referer"),
            agent=_header(request, "User-Agent"),
            cache=request.cache_status.removeprefix("contentcache").removeprefix("; ") or "-",
            seconds=seconds,
            upstream=request.upstream,
        )
        self._write("access", access=access)

    def log_hits(self, hits: Sequence[Access]) -> None:
        """Record requests that the fast path has answered."""
        self._meter.hits([(access.method, access.status, access.sent, access.upstream) for access in hits])
        if self._lines:
            self._write("access", accesses=hits)


def _header(request: ServerRequest, name: str) -> str:
    values = request.requestHeaders.getRawHeaders(name.encode("ascii"))
    return harmless(values[0].decode("latin-1"), 256) if values else "-"


def _address(request: ServerRequest) -> str:
    channel = request.channel
    if request.client_address:
        return request.client_address
    return "-" if channel is None else shown_address(getattr(channel, "address", "-"))
