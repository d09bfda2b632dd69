"""Tests for :mod:`contentcache.telemetry.metrics`."""

from __future__ import annotations

from math import inf

from prometheus_client.parser import text_string_to_metric_families
from twisted.trial.unittest import SynchronousTestCase

from contentcache.telemetry.collectors import BulkHistogram
from contentcache.telemetry.families import ALIASES, CACHE_STATUSES, COUNTED
from contentcache.telemetry.metrics import Meter

_ORIGIN = "https://a.example"


def samples(meter: Meter) -> dict[str, float]:
    """All samples by name and labels, as they are written."""
    lines = (line for line in meter.text().decode().splitlines() if line[0] != "#")
    return {sample: float(value) for sample, _, value in (line.rpartition(" ") for line in lines)}


class FamilyTests(SynchronousTestCase):
    """Which metrics there are."""

    def test_from_the_start(self) -> None:
        """Each series with labels that are known exists before anything happens."""
        meter = Meter("cache")
        meter.watch_registry(_ORIGIN)
        meter.watch_upstream("https://hop.example", lambda: True, lambda: 0.0)
        found = samples(meter)
        for expected in (
            *(
                f'contentcache_pulls_total{{cache="{each}",kind="blobs",registry="a.example"}}'
                for each in CACHE_STATUSES
            ),
            'contentcache_http_requests_total{code="200",kind="referrers",method="GET"}',
            'contentcache_http_time_to_first_byte_seconds_count{kind="other"}',
            'contentcache_evicted_bytes_total{reason="purge"}',
            'contentcache_received_bytes_total{kind="manifests",registry="a.example"}',
            'contentcache_requests_limited_total{limit="fetches"}',
            'contentcache_upstream_requests_total{code="failed",host="https://hop.example"}',
            'registry_proxy_misses_total{type="manifest"}',
        ):
            self.assertEqual(found.get(expected), 0.0, expected)

    def test_roles(self) -> None:
        """A gateway has no metrics of a cache, and a cache none of a gateway."""
        cache, gateway = Meter("cache").text(), Meter("gateway").text()
        self.assertIn(b"contentcache_pulls", cache)
        self.assertNotIn(b"contentcache_gateway", cache)
        self.assertIn(b"contentcache_gateway_redirects", gateway)
        for name in (b"contentcache_pulls", b"contentcache_store", b"registry_proxy"):
            self.assertNotIn(name, gateway)

    def test_described(self) -> None:
        """What is counted is in the table, by the same name and type."""
        described = {family.name: family.type for family in (*COUNTED, *ALIASES)}
        for family in text_string_to_metric_families(Meter().text().decode()):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            self.assertEqual(described.get(name), family.type, name)

    def test_kinds(self) -> None:
        """A kind that is not one of the metrics' is other."""
        meter = Meter()
        meter.answered("GET", "ping", 200, 0.1, 2, first_byte=0.1)
        found = samples(meter)
        self.assertEqual(found['contentcache_http_requests_total{code="200",kind="other",method="GET"}'], 1)
        self.assertEqual(found['contentcache_http_time_to_first_byte_seconds_count{kind="other"}'], 1)

    def test_aliases(self) -> None:
        """The names of distribution say the same."""
        meter = Meter()
        for status in CACHE_STATUSES:
            meter.pulled(_ORIGIN, "org/app", "blobs", status)
        meter.pulled(_ORIGIN, "org/app", "manifests", "affirmed")
        meter.received_counter(_ORIGIN, "blobs")(30)
        meter.answered("GET", "manifests", 200, 0.1, 7, upstream=_ORIGIN)
        meter.answered("GET", "tags", 200, 0.1, 8, upstream=_ORIGIN)
        found = samples(meter)
        for name, kind, expected in (
            ("requests", "blob", 6),
            ("hits", "blob", 3),
            ("misses", "blob", 3),
            ("requests", "manifest", 1),
            ("hits", "manifest", 1),
            ("misses", "manifest", 0),
            ("pulled_bytes", "blob", 30),
            ("pushed_bytes", "manifest", 7),
        ):
            self.assertEqual(found[f'registry_proxy_{name}_total{{type="{kind}"}}'], expected, name)

    def test_configuration(self) -> None:
        """A reload that failed is told, and when the last one succeeded."""
        meter = Meter()
        meter.watch_configuration(100.0)
        name = "contentcache_config_last_reload_success"
        for succeeded, now, expected in (
            (None, 0.0, (1, 100)),
            (False, 200.0, (0, 100)),
            (True, 300.0, (1, 300)),
        ):
            if succeeded is not None:
                meter.reloaded(now, ok=succeeded)
            found = samples(meter)
            self.assertEqual((found[name], found[f"{name}_timestamp_seconds"]), expected)

    def test_caches(self) -> None:
        """Each cache of a gateway has both its series as soon as it is known."""
        meter, health = Meter("gateway"), {"near": True}
        meter.watch_caches(lambda: health)
        self.assertEqual(samples(meter)['contentcache_gateway_redirects_total{cache="near"}'], 0)
        health["far"] = False
        meter.redirected("near")
        found = samples(meter)
        for expected in (
            ('contentcache_gateway_cache_healthy{cache="near"}', 1),
            ('contentcache_gateway_cache_healthy{cache="far"}', 0),
            ('contentcache_gateway_redirects_total{cache="near"}', 1),
            ('contentcache_gateway_redirects_total{cache="far"}', 0),
        ):
            self.assertIn(expected, found.items())


class HitTests(SynchronousTestCase):
    """Hits of the fast path, which are counted together."""

    def test_like_others(self) -> None:
        """Several hits count as as many answered requests."""
        together, apart = Meter(), Meter()
        hits = [("GET", 200, 10, _ORIGIN, 0.25, 0.5), ("HEAD", 200, 0, _ORIGIN, 0.25, 0.25)] * 3
        hits += [("GET", 206, 5, _ORIGIN, 0.0625, 8.0)]
        together.hits(hits[:4])
        together.hits(hits[4:])
        for method, status, sent, upstream, first_byte, seconds in hits:
            apart.answered(method, "blobs", status, seconds, sent, upstream=upstream, first_byte=first_byte)
            if method == "GET":
                apart.pulled(upstream, "org/app", "blobs", "hit")
        self.assertEqual(together.text(), apart.text())

    def test_many(self) -> None:
        """Many observations are as many single ones, on the bounds of buckets and between them."""
        amounts = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 0.5, inf)
        many, single = (BulkHistogram("a", "Amounts.", buckets=(1, 2), registry=None) for _ in range(2))
        many.observe_all(amounts)
        for amount in amounts:
            single.observe(amount)
        found = [
            [
                (sample.name, sample.labels, sample.value)
                for family in each.collect()
                for sample in family.samples
            ]
            for each in (many, single)
        ]
        self.assertEqual(found[0], found[1])
