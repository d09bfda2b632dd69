"""
Tests for :mod:`contentcache.web.debug_api`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.server import Site

from contentcache.meter import Meter
from contentcache.web.debug_api import DebugApi, Finding
from tests.web.house import Client, Reply, replies, request


class DebugApiTests(SynchronousTestCase):
    """
    The operator's pages.
    """

    def setUp(self) -> None:
        self.findings: Mapping[str, Finding] = {"store": Finding("ok", "can be written")}

    def ask(self, target: str, method: str = "GET", metrics: str | None = "/metrics") -> Reply:
        """
        One page.
        """
        meter = Meter()

        async def findings() -> Mapping[str, Finding]:
            return self.findings

        async def counted() -> bytes:
            return meter.text()

        api = DebugApi(findings, counted, metrics)
        site = Site(api.resource(), reactor=Clock())
        client = Client(site).send(request(target, method=method))
        (reply,) = replies(client.transport.value(), method)
        return reply

    def test_health(self) -> None:
        """
        JSON that says what was looked at; only what hurts clients is a 503.
        """
        for state, status in (("ok", 200), ("warn", 200), ("fail", 503)):
            self.findings = {"store": Finding("ok", "fine"), "other": Finding(state, "so")}  # type: ignore[arg-type]
            reply = self.ask("/debug/health")
            self.assertEqual((reply.status, reply.header("Content-Type")), (status, "application/json"))
            told = json.loads(reply.body)
            self.assertEqual(told["status"], state)
            self.assertEqual(told["checks"]["other"], {"state": state, "says": "so"})
            head = self.ask("/debug/health", "HEAD")
            self.assertEqual((head.status, head.body), (status, b""))

    def test_metrics(self) -> None:
        """
        Prometheus' text where they are switched on, at the path that is set.
        """
        reply = self.ask("/metrics")
        self.assertEqual(reply.status, 200)
        self.assertTrue((reply.header("Content-Type") or "").startswith("text/plain; version=0.0.4"))
        self.assertIn(b"contentcache_served_bytes_total 0.0", reply.body)
        self.assertEqual(self.ask("/metrics?x=y").status, 200)
        self.assertEqual(self.ask("/own/path", metrics="/own/path").status, 200)
        self.assertEqual(self.ask("/metrics", metrics="/own/path").status, 404)
        self.assertEqual(self.ask("/metrics", metrics=None).status, 404)

    def test_nothing_else(self) -> None:
        """
        Other paths are 404, other methods 405.
        """
        for target in ("/", "/debug", "/debug/health/x", "/debug/vars", "/metrics/"):
            self.assertEqual(self.ask(target).status, 404, target)
        for target in ("/debug/health", "/metrics"):
            self.assertEqual(self.ask(target, "POST").status, 405)
        self.assertEqual(self.flushLoggedErrors(), [])
