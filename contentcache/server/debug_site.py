"""
The debug HTTP server: health and metrics, on an address of their own.

Two raw paths are compared, on twisted.web's requests alone: its resources, and a framework of routes over them,
would take a twentieth of the memory of an idle daemon.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Literal, cast

from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, HTTPFactory, Request, datetimeToString

from contentcache.core.ports import Timer
from contentcache.server.errors import NOSNIFF

_METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_TEXT: Final = "text/plain; charset=utf-8"
_HEALTH: Final = "/debug/health"
_METHODS: Final = (b"GET", b"HEAD")
_NOSNIFF: Final = tuple(word.encode("ascii") for word in NOSNIFF)


@frozen
class HealthCheck:
    """The result of one health check. ``fail`` means that clients are not served."""

    state: Literal["ok", "warn", "fail"]
    detail: str


#: Runs the health checks; their results by name.
HealthChecks = Callable[[], Awaitable[Mapping[str, HealthCheck]]]
#: The metrics in Prometheus' text format.
Metrics = Callable[[], Awaitable[bytes]]


@frozen
class _Page:
    """A response."""

    status: int
    media_type: str
    body: bytes
    headers: Mapping[str, str] = {}


class _PageRequest(Request):
    """A complete request."""

    channel: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        name, value = NOSNIFF
        self.responseHeaders.setRawHeaders(name, [value])

    def process(self) -> None:
        """Start the response, which a client that disconnects cancels."""
        response = Deferred.fromCoroutine(self.channel.factory.answer(self))
        self.notifyFinish().addErrback(lambda _left: response.cancel())
        response.addErrback(Failure.trap, CancelledError)


class _PageChannel(HTTPChannel):
    """A connection."""

    requestFactory = _PageRequest

    def _respondToBadRequestAndDisconnect(self) -> None:
        """Twisted's response to what is not HTTP, with the header that all responses have."""
        transport: Any = self.transport
        transport.write(b"HTTP/1.1 400 Bad Request\r\n%b: %b\r\n\r\n" % _NOSNIFF)
        transport.loseConnection()


class DebugSite(HTTPFactory):
    """
    Serves ``/debug/health`` and, at ``metrics_path`` unless that is ``None``, Prometheus' metrics, without an
    access log.
    """

    noisy = False
    protocol: Any = _PageChannel
    _log = Logger()

    def __init__(
        self, health: HealthChecks, metrics: Metrics, metrics_path: str | None, reactor: Timer
    ) -> None:
        super().__init__(reactor=cast("Any", reactor))
        self._health_checks = health
        self._metrics = metrics
        self._metrics_path = metrics_path

    async def answer(self, request: Request) -> None:
        """Send the page of the request's path, or an error."""
        try:
            page = await self._page(request.method, request.path.decode("latin-1"))
        except CancelledError:
            raise
        except Exception:  # noqa: BLE001  # monitoring should see that something is wrong
            self._log.failure("debug page failed", path=request.path.decode("latin-1"))
            page = _Page(500, _TEXT, b"this page has failed; the log says why\n")
        request.setResponseCode(page.status)
        for name, value in page.headers.items():
            request.setHeader(name, value)
        request.setHeader("Date", datetimeToString())
        request.setHeader("Content-Type", page.media_type)
        request.setHeader("Content-Length", str(len(page.body)))
        request.write(page.body)
        request.finish()

    async def _page(self, method: bytes, path: str) -> _Page:
        if method not in _METHODS:
            return _Page(405, _TEXT, b"the methods here are GET and HEAD\n", {"Allow": "GET, HEAD"})
        if path == _HEALTH:
            return self._health(await self._health_checks())
        if path == self._metrics_path:
            return _Page(200, _METRICS_TYPE, await self._metrics())
        hint = b"/debug/health is here, and the metrics if http.debug.prometheus.enabled is set\n"
        return _Page(404, _TEXT, hint)

    @staticmethod
    def _health(health: Mapping[str, HealthCheck]) -> _Page:
        """200 while clients are served, else 503; the body has the health checks."""
        states = {finding.state for finding in health.values()}
        worst = "fail" if "fail" in states else "warn" if "warn" in states else "ok"
        checks = {name: {"state": each.state, "detail": each.detail} for name, each in health.items()}
        body = json.dumps({"status": worst, "checks": checks}, indent=2).encode() + b"\n"
        return _Page(503 if worst == "fail" else 200, "application/json", body)

    def log(self, request: Request) -> None:
        """Nothing."""

    def startFactory(self) -> None:
        """Nothing: there is no log file of Twisted's, and no cached date for it."""

    def stopFactory(self) -> None:
        """Nothing."""
