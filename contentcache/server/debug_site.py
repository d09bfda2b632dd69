"""The debug site: health, metrics, and what else the operator reads, on an address of its own."""

from __future__ import annotations

import gzip
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Literal

from attrs import frozen
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder, gzip_accepted
from twisted.web.http import Request

from contentcache.core.host_health import HostHealth
from contentcache.core.shown import hide_names
from contentcache.server.known_hosts import KnownHosts
from contentcache.server.page_server import TEXT, Page, Responder

#: The fastest level halves the bytes at a fifth of the time.
_GZIP_LEVEL: Final = 1
_HEALTH: Final = "/debug/health"
_METHODS: Final = (b"GET", b"HEAD")


@frozen
class HealthCheck:
    """The result of one health check, with the ``hosts`` that it is about. ``fail``: clients are not served."""

    state: Literal["ok", "warn", "fail"]
    detail: str
    hosts: Sequence[HostHealth] = ()

    def as_json(self) -> Mapping[str, object]:
        """The same as JSON has it, without names of repositories and digests."""
        hosts = {"hosts": [host.as_json() for host in self.hosts]} if self.hosts else {}
        return {"state": self.state, "detail": hide_names(self.detail), **hosts}


#: Runs the health checks; their results by name.
HealthChecks = Callable[[], Awaitable[Mapping[str, HealthCheck]]]
#: The metrics as they are now.
Metrics = Callable[[], Awaitable[CollectorRegistry]]


class DebugSite:
    """
    Answers ``/debug/health`` and, at ``metrics_path`` unless that is ``None``, with Prometheus' metrics; everything
    else is for ``respond_other``. Requests for other ``hosts`` are refused.
    """

    def __init__(
        self,
        health: HealthChecks,
        metrics: Metrics,
        metrics_path: str | None,
        hosts: KnownHosts,
        respond_other: Responder,
    ) -> None:
        self._health_checks = health
        self._metrics = metrics
        self._metrics_path = metrics_path
        self._hosts = hosts
        self._respond_other = respond_other

    async def respond(self, request: Request) -> Page:
        """Return the page of the request's path, or an error."""
        if not self._is_known(request):
            return Page(421, TEXT, b"this is not served by that name; http.debug.hosts can have it\n")
        if request.method not in _METHODS:
            return Page(405, TEXT, b"the methods here are GET and HEAD\n", {"Allow": "GET, HEAD"})
        path = request.path.decode("latin-1")
        if path == _HEALTH:
            return health_page(await self._health_checks())
        if path == self._metrics_path:
            return _rendered(await self._metrics(), request)
        return await self._respond_other(request)

    def _is_known(self, request: Request) -> bool:
        host = request.getHeader("Host")
        if host is None:
            # No browser does that: it is a probe that knows no more than the version before hosts had names.
            return bool(request.clientproto == b"HTTP/1.0")
        return self._hosts.has(host, str(getattr(request.getHost(), "host", "")))


async def nothing_else(_request: Request) -> Page:
    """Return the response for a path that is nothing here."""
    hint = b"/debug/health is here, and the metrics if http.debug.prometheus.enabled is set\n"
    return Page(404, TEXT, hint)


def health_page(health: Mapping[str, HealthCheck]) -> Page:
    """200 while clients are served, else 503; the body has the health checks."""
    states = {finding.state for finding in health.values()}
    worst = "fail" if "fail" in states else "warn" if "warn" in states else "ok"
    checks = {name: each.as_json() for name, each in health.items()}
    body = json.dumps({"status": worst, "checks": checks}, indent=2).encode() + b"\n"
    return Page(503 if worst == "fail" else 200, "application/json", body)


def _rendered(metrics: CollectorRegistry, request: Request) -> Page:
    """The metrics in the format, and with the compression, that the client accepts."""
    encode, media_type = choose_encoder(request.getHeader("Accept") or "")
    body = encode(metrics)
    headers = {"Vary": "Accept, Accept-Encoding"}
    if gzip_accepted(request.getHeader("Accept-Encoding") or ""):
        body = gzip.compress(body, _GZIP_LEVEL)
        headers["Content-Encoding"] = "gzip"
    return Page(200, media_type, body, headers)
