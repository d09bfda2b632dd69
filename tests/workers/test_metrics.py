"""Tests for :mod:`contentcache.workers.metrics`."""

from __future__ import annotations

import json
from collections.abc import Sequence

from prometheus_client import generate_latest
from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.host_health import HostHealth
from contentcache.server.debug_site import HealthCheck
from contentcache.telemetry.metrics import Meter
from contentcache.workers.encoding import decode, encode
from contentcache.workers.metrics import Family, as_registry, collect, cumulative, merge, worst_findings


def render(families: Sequence[Family]) -> bytes:
    """Prometheus' text format."""
    return generate_latest(as_registry(families))


class MetricsTests(SynchronousTestCase):
    """Several processes as if they were one."""

    def meters(self) -> tuple[Meter, Meter]:
        """The metrics of two processes."""
        one, other = Meter(), Meter()
        for meter, up, connections in ((one, True, 3), (other, False, 4)):
            meter.answered("GET", "blobs", 200, 0.01, 100)
            meter.watch_upstream("https://one.example", lambda up=up: up, lambda n=connections: n)  # type: ignore[misc]
            meter.watch("connections", lambda n=connections: n)  # type: ignore[misc]
        other.answered("GET", "blobs", 404, 7.0, 20)
        other.ratelimit_remaining("https://one.example", 76)
        return one, other

    def test_sums(self) -> None:
        """Counters, histograms and gauges add up; of upstreams' health the worst counts."""
        # As JSON, the way it goes from one process to another.
        processes = [json.loads(json.dumps(collect(meter.registry))) for meter in self.meters()]
        lines = render(merge(processes)).decode().splitlines()
        for expected in (
            'contentcache_http_requests_total{code="200",kind="blobs",method="GET"} 2.0',
            'contentcache_http_requests_total{code="404",kind="blobs",method="GET"} 1.0',
            'contentcache_sent_bytes_total{kind="blobs",registry="-"} 220.0',
            'contentcache_http_request_duration_seconds_bucket{kind="blobs",le="0.025"} 2.0',
            'contentcache_http_request_duration_seconds_bucket{kind="blobs",le="+Inf"} 3.0',
            'contentcache_http_request_duration_seconds_count{kind="blobs"} 3.0',
            "contentcache_connections 7.0",
            'contentcache_upstream_healthy{host="https://one.example"} 0.0',
            'contentcache_upstream_last_success_timestamp_seconds{host="https://one.example"} 4.0',
            'contentcache_upstream_ratelimit_remaining{host="https://one.example"} 76.0',
            'registry_proxy_pushed_bytes_total{type="blob"} 220.0',
            "# TYPE contentcache_sent_bytes_total counter",
            "# TYPE contentcache_http_request_duration_seconds histogram",
        ):
            self.assertIn(expected, lines)

    def test_one_alone(self) -> None:
        """The metrics of one process are rendered as they are without workers."""
        one, _ = self.meters()
        self.assertEqual(render(merge([collect(one.registry)])), one.text())

    def test_ended(self) -> None:
        """Counters of a process that has ended still count; gauges do not."""
        one, _ = self.meters()
        kept = render(cumulative(collect(one.registry))).decode()
        self.assertIn('contentcache_sent_bytes_total{kind="blobs",registry="-"} 100.0', kept)
        self.assertNotIn("contentcache_connections", kept)

    def test_findings(self) -> None:
        """Of each health check the worst result counts."""
        well = HostHealth("https://one.example", 1.0).answered(9.0, 0.1)
        ill = HostHealth("https://one.example", 2.0).failed("refused", 5.0)
        one = {"a": HealthCheck("ok", "1", [well]), "b": HealthCheck("fail", "2")}
        other = {"a": HealthCheck("warn", "3", [ill]), "b": HealthCheck("ok", "4")}
        # The way they go from one process to another.
        found = worst_findings([one, decode(encode(other))])
        self.assertEqual((found["a"].state, found["a"].detail), ("warn", "3"))
        (host,) = found["a"].hosts
        self.assertEqual((host.healthy, host.reason, host.last_success), (False, "refused", 9.0))
        self.assertEqual(found["b"], HealthCheck("fail", "2"))
