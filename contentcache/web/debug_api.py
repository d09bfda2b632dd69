"""
The operator's pages, on an address of their own: health and metrics.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Literal

from attrs import frozen
from klein import Klein
from twisted.web.http import Request

_METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


@frozen
class Finding:
    """
    One thing that was looked at. ``warn`` is worth a look, ``fail`` means that clients suffer.
    """

    state: Literal["ok", "warn", "fail"]
    says: str


#: What is looked at, by name.
Findings = Callable[[], Awaitable[Mapping[str, Finding]]]
#: What was counted, in Prometheus' text format.
Metrics = Callable[[], Awaitable[bytes]]


class DebugApi:
    """
    ``/debug/health`` and, at ``metrics_path`` unless that is ``None``, Prometheus' metrics.
    """

    app = Klein()

    def __init__(self, findings: Findings, metrics: Metrics, metrics_path: str | None) -> None:
        self._findings = findings
        self._metrics = metrics
        self._metrics_path = metrics_path

    def resource(self) -> Any:
        """
        What a ``Site`` serves.
        """
        return self.app.resource()

    @app.route("/debug/health", methods=["GET", "HEAD"])
    async def health(self, request: Request) -> bytes:
        """
        200 while clients are served, 503 when they are not; the body says what was looked at.
        """
        findings = await self._findings()
        states = {finding.state for finding in findings.values()}
        worst = "fail" if "fail" in states else "warn" if "warn" in states else "ok"
        request.setResponseCode(503 if worst == "fail" else 200)
        request.setHeader("Content-Type", "application/json")
        checks = {name: {"state": f.state, "says": f.says} for name, f in findings.items()}
        return json.dumps({"status": worst, "checks": checks}, indent=2).encode() + b"\n"

    @app.route("/", methods=["GET", "HEAD"], branch=True)
    async def metrics(self, request: Request) -> bytes:
        """
        The metrics, where they are switched on; else 404.
        """
        path = request.path.decode("latin-1")
        if self._metrics_path is None or path != self._metrics_path:
            request.setResponseCode(404)
            request.setHeader("Content-Type", "text/plain")
            return b"/debug/health is here, and the metrics if http.debug.prometheus.enabled is set\n"
        request.setHeader("Content-Type", _METRICS_TYPE)
        return await self._metrics()
