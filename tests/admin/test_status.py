"""Tests for :mod:`contentcache.admin.status`."""

from __future__ import annotations

import doctest
import json

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from contentcache.admin import status
from contentcache.admin.hidden_names import without_names
from contentcache.admin.status import (
    CacheSummary,
    DownloadStatus,
    GatewayStatus,
    LoggedError,
    Periods,
    ProcessStatus,
    Savings,
    Status,
    StoredBlob,
    StoreStatus,
    UpstreamStatus,
    Workers,
    as_json,
    merge,
    traffic,
)

DIGEST = "sha256:" + "ab" * 32


def make_status() -> Status:
    """A document in which everything that has a name has one."""
    return Status(
        version="1",
        role="cache",
        health="ok",
        pid=7,
        time=60.0,
        started=0.0,
        uptime_seconds=60.0,
        workers=Workers(1, 1),
        savings=Periods(Savings.of(0.0, ())),
        downloads=(DownloadStatus("a", DIGEST, "org/app", "blobs", 5, 10, 2.5, 1, "https://a", 1.0),),
        upstreams=(UpstreamStatus("a", "https://a", False, 1.0, f"GET /v2/org/app/blobs/{DIGEST}: 502"),),
        store=StoreStatus("/s", 1, 2, 3, 4, 5, 6, None, (StoredBlob(DIGEST, "org/app", 9, 2.0),)),
        certificates=(),
        errors=(LoggedError(1.0, "warn", "upstream failed", f"upstream failed digest={DIGEST} org/app"),),
        reload=None,
        gateway=None,
    )


class TrafficTests(SynchronousTestCase):
    """What was saved, from the metrics."""

    def test_savings(self) -> None:
        """Content of registries counts, by what was sent, received and pulled; other requests do not."""
        of_a = {"registry": "a", "kind": "blobs"}
        samples = [
            ("contentcache_sent_bytes_total", of_a, 100.0),
            ("contentcache_sent_bytes_total", {**of_a, "kind": "tags"}, 1000.0),
            ("contentcache_sent_bytes_total", {"registry": "-", "kind": "other"}, 1000.0),
            ("contentcache_received_bytes_total", {**of_a, "kind": "manifests"}, 40.0),
            ("contentcache_pulls_total", {**of_a, "cache": "hit"}, 3.0),
            ("contentcache_pulls_total", {**of_a, "cache": "miss"}, 1.0),
            ("contentcache_http_requests_total", {"kind": "blobs"}, 9.0),
        ]
        found = Savings.of(0.0, traffic(samples))
        self.assertEqual((found.saved_bytes, found.hit_ratio, found.pulls, found.hits), (60, 0.75, 4, 3))

    def test_never_negative(self) -> None:
        """While more was received than sent, nothing was saved; without pulls there is no ratio."""
        samples = [("contentcache_received_bytes_total", {"registry": "a", "kind": "blobs"}, 9_876_542.0)]
        found = Savings.of(0.0, traffic(samples))
        self.assertEqual((found.saved_bytes, found.hit_ratio), (0, None))


class MergeTests(SynchronousTestCase):
    """Several workers are one daemon."""

    def test_merge(self) -> None:
        """Downloads of all are there; a host has the worst state, and the last success of any worker."""
        healthy = UpstreamStatus("a", "https://a", True, last_success=9.0, round_trip_seconds=0.1)
        ejected = UpstreamStatus("a", "https://a", False, 5.0, "no answer", 3.0, 12.0, 0.5)
        one = DownloadStatus("a", DIGEST, None, "blobs", 1, None, 1.0, 1, None, 2.0)
        found = merge(
            [
                ProcessStatus((one,), (healthy,), (LoggedError(2.0, "warn", "b", "b", 2),)),
                ProcessStatus((), (ejected,), (LoggedError(1.0, "error", "a", "a", 1),)),
            ]
        )
        self.assertEqual(found.downloads, (one,))
        self.assertEqual(
            found.upstreams, (UpstreamStatus("a", "https://a", False, 5.0, "no answer", 9.0, 12.0, 0.1),)
        )
        self.assertEqual([each.event for each in found.errors], ["a", "b"])


class DocumentTests(SynchronousTestCase):
    """The document as JSON."""

    def test_json(self) -> None:
        """Times are RFC 3339, and the rest is as it is."""
        document = json.loads(json.dumps(as_json(make_status())))
        self.assertEqual(document["time"], "1970-01-01T00:01:00Z")
        self.assertEqual(document["downloads"][0]["digest"], DIGEST)
        self.assertEqual(document["savings"]["start"]["since"], "1970-01-01T00:00:00Z")

    def test_without_names(self) -> None:
        """No repository and no digest is left, in fields and in sentences."""
        text = json.dumps(as_json(without_names(make_status())))
        self.assertNotIn("org/app", text)
        self.assertNotIn("abab", text)
        self.assertIn("502", text)
        cache = CacheSummary("near", "https://b", False, 1.0, "GET https://b/org/app failed", 1, 1)
        of_gateway = evolve(make_status(), gateway=GatewayStatus("a", "https://g", 1, 1, (cache,)))
        self.assertNotIn("org/app", json.dumps(as_json(without_names(of_gateway))))

    def test_examples(self) -> None:
        """The examples in the documentation of the module hold."""
        self.assertEqual(doctest.testmod(status).failed, 0)
