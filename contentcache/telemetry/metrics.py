"""The metrics of one process, in Prometheus' text format."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from attrs import frozen
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from contentcache.telemetry.repository_pulls import RepositoryPulls

disable_created_metrics()  # type: ignore[no-untyped-call]  # twice as many lines, and nobody looks at them

_LAG_BUCKETS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_SECONDS_BUCKETS: Final = (0.005, 0.025, 0.1, 0.5, 1, 5, 15, 60, 300)
_CACHE_STATUSES: Final = ("hit", "affirmed", "stale", "miss", "coalesced", "uncached")
_EVICTION_REASONS: Final = ("age", "size", "space")


def _registry(origin: str) -> str:
    """
    The label of an origin.

    >>> _registry("https://registry.example.com")
    'registry.example.com'
    """
    return origin.rpartition("://")[2]


class _CacheHealth(Collector):
    def __init__(self, read: Callable[[], Mapping[str, bool]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "contentcache_gateway_cache_healthy", "1 where clients can be sent to a cache", labels=["cache"]
        )
        for name, is_healthy in self._read().items():
            family.add_metric([name], float(is_healthy))
        yield family


class _BulkHistogram(Histogram):
    """A histogram that counts several equal observations as fast as one."""

    def observe_many(self, amount: float, count: int) -> None:
        """Observe ``amount`` so many times."""
        self._sum.inc(amount * count)
        self._buckets[bisect_left(self._upper_bounds, amount)].inc(count)


@frozen
class _HitCounters:
    """Counters of the fast path with one set of labels: to look labels up costs more than to count."""

    requests: Counter
    sent: Counter
    pulls: Counter | None
    seconds: _BulkHistogram


class Meter:
    """The daemon's counters, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        #: Not a metric: there are too many repositories.
        self.repository_pulls = RepositoryPulls()
        self._hit_counters: dict[tuple[str, int, str], _HitCounters] = {}
        self._requests = Counter(
            "contentcache_http_requests",
            "Requests answered",
            ["method", "kind", "code"],
            registry=self.registry,
        )
        self._pulls = Counter(
            "contentcache_pulls",
            "GET of blobs and manifests by cache status",
            ["registry", "kind", "cache"],
            registry=self.registry,
        )
        self._sent = Counter(
            "contentcache_sent_bytes", "Body bytes to clients", ["registry", "kind"], registry=self.registry
        )
        self._received = Counter(
            "contentcache_received_bytes",
            "Body bytes of blobs and manifests from upstreams",
            ["registry", "kind"],
            registry=self.registry,
        )
        self._upstream_requests = Counter(
            "contentcache_upstream_requests",
            "Requests to upstreams by status code, or failed",
            ["host", "code"],
            registry=self.registry,
        )
        self._evictions = Counter(
            "contentcache_evictions", "Blobs evicted", ["reason"], registry=self.registry
        )
        self._evicted = Counter(
            "contentcache_evicted_bytes", "Bytes evicted", ["reason"], registry=self.registry
        )
        for reason in _EVICTION_REASONS:
            self._evictions.labels(reason)
            self._evicted.labels(reason)
        self._digest_mismatches = Counter(
            "contentcache_digest_mismatches",
            "Downloads whose bytes did not match the digest",
            registry=self.registry,
        )
        self._store_write_errors = Counter(
            "contentcache_store_write_errors", "Writes that the store refused", registry=self.registry
        )
        self._store_verified = Counter(
            "contentcache_store_verified", "Stored blobs that were hashed again", registry=self.registry
        )
        self._store_corrupt = Counter(
            "contentcache_store_corrupt",
            "Stored blobs that were corrupt or unreadable",
            registry=self.registry,
        )
        self._deep = Counter(
            "contentcache_deep_chains",
            "Requests through more than two caches",
            registry=self.registry,
        )
        self._limited = Counter(
            "contentcache_requests_limited", "Requests refused by a limit", ["limit"], registry=self.registry
        )
        self._seconds = _BulkHistogram(
            "contentcache_http_request_duration_seconds",
            "From the request to the last byte",
            ["kind"],
            buckets=_SECONDS_BUCKETS,
            registry=self.registry,
        )
        self._lag = Histogram(
            "contentcache_reactor_lag_seconds",
            "How late the reactor comes to what is due",
            buckets=_LAG_BUCKETS,
            registry=self.registry,
        )

    def watch(self, name: str, documentation: str, read: Callable[[], float]) -> None:
        """A gauge whose value is read when somebody looks."""
        Gauge(name, documentation, registry=self.registry).set_function(read)

    def watch_registry(self, origin: str) -> None:
        """Let the series of an upstream registry exist before its first request."""
        for kind in ("blobs", "manifests"):
            self._sent.labels(_registry(origin), kind)
            self._received.labels(_registry(origin), kind)
            for status in _CACHE_STATUSES:
                self._pulls.labels(_registry(origin), kind, status)

    def watch_caches(self, read: Callable[[], Mapping[str, bool]]) -> None:
        """Whether each cache of a gateway is healthy, by its name."""
        self.registry.register(_CacheHealth(read))

    def watch_upstream(self, host: str, is_healthy: Callable[[], bool]) -> None:
        """Whether an upstream host is healthy."""
        if not hasattr(self, "_upstreams"):
            self._upstreams = Gauge(
                "contentcache_upstream_healthy",
                "1 where an upstream host is healthy, 0 where it is not",
                ["host"],
                registry=self.registry,
            )
        self._upstreams.labels(host).set_function(lambda: float(is_healthy()))

    def watch_certificate(self, host: str, expiry: Callable[[], float]) -> None:
        """When the certificate of a host expires, in seconds since 1970."""
        if not hasattr(self, "_certificates"):
            self._certificates = Gauge(
                "contentcache_certificate_expiry_timestamp_seconds",
                "When a certificate expires, in seconds since 1970; 0 where there is none",
                ["host"],
                registry=self.registry,
            )
            self._certificates_asked = Counter(
                "contentcache_certificate_attempts",
                "Attempts to get a certificate by what came of them",
                ["host", "outcome"],
                registry=self.registry,
            )
        self._certificates.labels(host).set_function(expiry)

    def certificate_asked(self, host: str, succeeded: bool) -> None:
        """A certificate has been got, or not."""
        self._certificates_asked.labels(host, "success" if succeeded else "failure").inc()

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self.registry)

    def samples(self) -> list[tuple[str, Mapping[str, str], float]]:
        """Name, labels and value of each sample."""
        families = self.registry.collect()
        return [(one.name, one.labels, one.value) for family in families for one in family.samples]

    def answered(
        self, method: str, kind: str, status: int, seconds: float, sent: int, *, upstream: str = "-"
    ) -> None:
        """A request for content of ``upstream`` has been answered, with ``sent`` bytes of body."""
        self._requests.labels(method, kind, str(status)).inc()
        self._seconds.labels(kind).observe(seconds)
        self._sent.labels(_registry(upstream), kind).inc(sent)

    def hits(self, answers: Sequence[tuple[str, int, int, str]]) -> None:
        """Blobs were sent from the store, at once: the method, the status, bytes of body and origin of each."""
        groups: dict[tuple[str, int, str], tuple[int, int]] = {}
        for method, status, sent, upstream in answers:
            count, size = groups.get((method, status, upstream), (0, 0))
            groups[method, status, upstream] = count + 1, size + sent
        for group, (count, size) in groups.items():
            counters = self._hit_counters.get(group) or self._make_hit_counters(*group)
            counters.requests.inc(count)
            counters.sent.inc(size)
            if counters.pulls is not None:
                counters.pulls.inc(count)
            counters.seconds.observe_many(0.0, count)

    def _make_hit_counters(self, method: str, status: int, upstream: str) -> _HitCounters:
        counters = self._hit_counters[method, status, upstream] = _HitCounters(
            self._requests.labels(method, "blobs", str(status)),
            self._sent.labels(_registry(upstream), "blobs"),
            self._pulls.labels(_registry(upstream), "blobs", "hit") if method == "GET" else None,
            self._seconds.labels("blobs"),
        )
        return counters

    def pulled(self, origin: str, repository: str, kind: str, status: str) -> None:
        """A blob or manifest is about to be sent; ``status`` is one of the cache statuses."""
        self._pulls.labels(_registry(origin), kind, status).inc()
        if kind == "manifests":
            self.repository_pulls.add(_registry(origin), repository)

    def received_counter(self, origin: str, kind: str) -> Callable[[float], None]:
        """
        Counts bytes of blobs or manifests that come in. For each body one: to look labels up costs more than to
        count.
        """
        return self._received.labels(_registry(origin), kind).inc

    def asked(self, host: str, code: str) -> None:
        """A host has answered, or failed."""
        self._upstream_requests.labels(host, code).inc()

    def evicted(self, size: int, reason: str) -> None:
        """A blob has been evicted."""
        self._evictions.labels(reason).inc()
        self._evicted.labels(reason).inc(size)

    def digest_mismatch(self) -> None:
        """The bytes of a download did not match its digest."""
        self._digest_mismatches.inc()

    def store_write_error(self) -> None:
        """The store has refused a write."""
        self._store_write_errors.inc()

    def store_verified(self, right: bool) -> None:
        """A stored blob was hashed again."""
        self._store_verified.inc()
        if not right:
            self._store_corrupt.inc()

    def went_deep(self) -> None:
        """A request came through more caches than are good for it."""
        self._deep.inc()

    def limited(self, limit: str) -> None:
        """A limit has been reached."""
        self._limited.labels(limit).inc()

    def lagged(self, seconds: float) -> None:
        """The reactor came late."""
        self._lag.observe(seconds)
