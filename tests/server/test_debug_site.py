"""Tests for :mod:`contentcache.server.debug_site`."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping

from attrs import evolve
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from contentcache.config.model import Address
from contentcache.core.host_health import HostHealth
from contentcache.server.debug_site import DebugSite, HealthCheck, nothing_else
from contentcache.server.known_hosts import KnownHosts
from contentcache.server.page_server import PageServer
from contentcache.telemetry.metrics import Meter
from tests.registry.harness import Client, Reply, request

HOSTS = KnownHosts(Address("127.0.0.1", 5001), ("cache.example",))


class DebugSiteTests(SynchronousTestCase):
    """The operator's pages."""

    def setUp(self) -> None:
        self.health: Mapping[str, HealthCheck] = {"store": HealthCheck("ok", "can be written")}
        self.cancelled: list[object] = []

    def ask(self, target: str, method: str = "GET", metrics: str | None = "/metrics") -> Reply:
        """One page."""
        return Client(self.api(metrics)).ask(target, method=method)

    def api(self, metrics: str | None) -> PageServer:
        """The operator's port."""
        meter = Meter()

        async def health() -> Mapping[str, HealthCheck]:
            return self.health

        async def counted() -> CollectorRegistry:
            return meter.registry

        return PageServer(DebugSite(health, counted, metrics, HOSTS, nothing_else).respond, Clock())

    def test_health(self) -> None:
        """JSON that says what was looked at; only what hurts clients is a 503."""
        for state, status in (("ok", 200), ("warn", 200), ("fail", 503)):
            self.health = {"store": HealthCheck("ok", "fine"), "other": HealthCheck(state, "so")}  # type: ignore[arg-type]
            reply = self.ask("/debug/health")
            self.assertEqual((reply.status, reply.header("Content-Type")), (status, "application/json"))
            told = json.loads(reply.body)
            self.assertEqual(told["status"], state)
            self.assertEqual(told["checks"]["other"], {"state": state, "detail": "so"})
            head = self.ask("/debug/health", "HEAD")
            self.assertEqual((head.status, head.body), (status, b""))

    def test_hosts(self) -> None:
        """Of each host: since when, why, its last success, and the next try, as times that people can read."""
        host = (
            HostHealth("https://one.example", 0.0)
            .answered(60.0, 0.25)
            .failed("GET https://one.example/v2/a/tags/list: refused", 120.0)
        )
        self.health = {"upstream": HealthCheck("warn", "so", [evolve(host, next_try=150.0)])}
        told = json.loads(self.ask("/debug/health").body)
        self.assertEqual(
            told["checks"]["upstream"]["hosts"],
            [
                {
                    "host": "https://one.example",
                    "healthy": False,
                    "since": "1970-01-01T00:02:00Z",
                    "reason": "GET https://one.example… refused",
                    "last_success": "1970-01-01T00:01:00Z",
                    "next_try": "1970-01-01T00:02:30Z",
                    "round_trip_seconds": 0.25,
                }
            ],
        )

    def test_metrics(self) -> None:
        """Prometheus' text where they are switched on, at the path that is set."""
        reply = self.ask("/metrics")
        self.assertEqual(reply.status, 200)
        self.assertTrue((reply.header("Content-Type") or "").startswith("text/plain; version=0.0.4"))
        self.assertIn(b'contentcache_evictions_total{reason="age"} 0.0', reply.body)
        self.assertEqual(self.ask("/metrics?x=y").status, 200)
        self.assertEqual(self.ask("/own/path", metrics="/own/path").status, 200)
        self.assertEqual(self.ask("/metrics", metrics="/own/path").status, 404)
        self.assertEqual(self.ask("/metrics", metrics=None).status, 404)

    def test_formats(self) -> None:
        """OpenMetrics, and gzip, for clients that accept them."""
        plain = self.ask("/metrics")
        self.assertIsNone(plain.header("Content-Encoding"))
        self.assertNotIn(b"# EOF", plain.body)
        accept = "Accept: application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
        reply = Client(self.api("/metrics")).ask("/metrics", accept, "Accept-Encoding: gzip")
        self.assertEqual(reply.header("Content-Encoding"), "gzip")
        self.assertTrue((reply.header("Content-Type") or "").startswith("application/openmetrics-text"))
        families = list(text_string_to_metric_families(gzip.decompress(reply.body).decode()))
        self.assertIn("contentcache_evictions", [family.name for family in families])

    def test_nothing_else(self) -> None:
        """Other paths are 404, other methods 405."""
        for target in ("/", "/debug", "/debug/health/x", "/debug/vars", "/metrics/"):
            self.assertEqual(self.ask(target).status, 404, target)
        for target in ("/debug/health", "/metrics"):
            reply = self.ask(target, "POST")
            self.assertEqual((reply.status, reply.header("Allow")), (405, "GET, HEAD"))
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_unknown_host(self) -> None:
        """Who asks by a name that is not ours gets nothing, whatever it asks for."""
        for target in ("/debug/health", "/metrics", "/", "/v1/status"):
            client = Client(self.api("/metrics"))
            (reply,) = client.send(f"GET {target} HTTP/1.1\r\nHost: rebound.example\r\n\r\n").replies()
            self.assertEqual(reply.status, 421, target)
            self.assertNotIn(b"store", reply.body)

    def test_no_host(self) -> None:
        """A request must name a host, and an empty name is none; a probe of HTTP/1.0 need not."""
        for head, status in (
            ("HTTP/1.1", 421),
            ("HTTP/1.1\r\nHost:", 421),
            ("HTTP/1.0\r\nHost:", 421),
            ("HTTP/1.0", 200),
        ):
            client = Client(self.api("/metrics"))
            (reply,) = client.send(f"GET /debug/health {head}\r\n\r\n").replies()
            self.assertEqual(reply.status, status, head)

    def test_no_request(self) -> None:
        """What is no HTTP gets an answer that says the same as all."""
        (reply,) = Client(self.api("/metrics")).send("nonsense\r\n\r\n").replies()
        self.assertEqual(reply.status, 400)

    def test_large_body(self) -> None:
        """A body that nothing here needs is refused before it is read whole, in chunks too."""
        head = "POST /debug/health HTTP/1.1\r\nHost: localhost\r\n"
        for framing, before in (
            (f"Content-Length: {1 << 30}", ""),
            ("Transfer-Encoding: chunked", "100000\r\n"),
        ):
            client = Client(self.api("/metrics")).send(f"{head}{framing}\r\n\r\n{before}" + "x" * 70_000)
            self.assertTrue(client.transport.value().startswith(b"HTTP/1.1 400 "))
            self.assertTrue(client.ended)

    def waiting(self) -> tuple[Client, Deferred[CollectorRegistry]]:
        """A client who has asked for the metrics, and what will be the answer."""
        counting: Deferred[CollectorRegistry] = Deferred(self.cancelled.append)

        async def health() -> Mapping[str, HealthCheck]:
            return self.health

        site = DebugSite(health, lambda: counting, "/metrics", HOSTS, nothing_else)
        client = Client(PageServer(site.respond, Clock()))
        return client.send(request("/metrics")), counting

    def test_one_after_another(self) -> None:
        """A connection is kept; what comes meanwhile is answered in its turn."""
        client, counting = self.waiting()
        client.send(request("/debug/health", method="HEAD") + request("/nothing"))
        self.assertEqual(client.transport.value(), b"")
        meter = Meter()
        counting.callback(meter.registry)
        first, second, third = client.replies("GET", "HEAD", "GET")
        self.assertEqual((first.status, first.body), (200, meter.text()))
        self.assertEqual((second.status, second.body, third.status), (200, b"", 404))
        self.assertFalse(client.ended)

    def test_failed(self) -> None:
        """A defect is a 500, and its traceback in the log."""
        client, counting = self.waiting()
        counting.errback(ZeroDivisionError("so"))
        (reply,) = client.replies("GET")
        self.assertEqual((reply.status, reply.body), (500, b"this page has failed; the log says why\n"))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_left(self) -> None:
        """Who leaves is counted for no longer, and that is nothing to write of."""
        client, counting = self.waiting()
        client.leave()
        self.assertEqual(self.cancelled, [counting])
        self.assertEqual((client.transport.value(), self.flushLoggedErrors()), (b"", []))
