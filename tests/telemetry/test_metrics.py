"""Tests for :mod:`contentcache.telemetry.metrics`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from contentcache.telemetry.metrics import Meter, _BulkHistogram

_ORIGIN = "https://a.example"


class HitTests(SynchronousTestCase):
    """Hits of the fast path, which are counted together."""

    def test_like_others(self) -> None:
        """Several hits count as as many answered requests."""
        together, apart = Meter(), Meter()
        hits = [("GET", 200, 10, _ORIGIN), ("HEAD", 200, 0, _ORIGIN), ("GET", 206, 5, _ORIGIN)] * 3
        together.hits(hits[:4])
        together.hits(hits[4:])
        for method, status, sent, upstream in hits:
            apart.answered(method, "blobs", status, 0.0, sent, upstream=upstream)
            if method == "GET":
                apart.pulled(upstream, "org/app", "blobs", "hit")
        self.assertEqual(together.text(), apart.text())

    def test_many(self) -> None:
        """Many observations of an amount are as many single ones, on the bounds of buckets and between them."""
        for amount in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0):
            many, single = (_BulkHistogram("a", "Amounts.", buckets=(1, 2), registry=None) for _ in range(2))
            many.observe_many(amount, 3)
            for _ in range(3):
                single.observe(amount)
            samples = [
                [
                    (sample.name, sample.labels, sample.value)
                    for family in each.collect()
                    for sample in family.samples
                ]
                for each in (many, single)
            ]
            self.assertEqual(samples[0], samples[1], amount)
