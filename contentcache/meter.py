"""What is counted, for people who would rather look than read."""

from __future__ import annotations

from collections import Counter as Counted
from collections.abc import Callable, Sequence
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

disable_created_metrics()  # type: ignore[no-untyped-call]  # twice as many lines, and nobody looks at them

_LAG_BUCKETS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_SECONDS_BUCKETS: Final = (0.005, 0.025, 0.1, 0.5, 1, 5, 15, 60, 300)


class Meter:
    """The daemon's counters, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "contentcache_requests", "Requests answered", ["method", "kind", "status"], registry=self.registry
        )
        self._outcomes = Counter(
            "contentcache_content", "Blobs and manifests by cache status", ["outcome"], registry=self.registry
        )
        self._served = Counter("contentcache_served_bytes", "Body bytes to clients", registry=self.registry)
        self._fetched = Counter(
            "contentcache_fetched_bytes", "Body bytes of content from upstream", registry=self.registry
        )
        self._upstream_requests = Counter(
            "contentcache_upstream_requests",
            "Requests to upstreams by what came of them",
            ["host", "outcome"],
            registry=self.registry,
        )
        self._evictions = Counter(
            "contentcache_evictions", "Blobs deleted", ["reason"], registry=self.registry
        )
        self._evicted = Counter("contentcache_evicted_bytes", "Bytes deleted", registry=self.registry)
        self._restarts = Counter(
            "contentcache_wrong_content",
            "Fetches whose bytes did not match the digest",
            registry=self.registry,
        )
        self._disk = Counter(
            "contentcache_disk_failures", "Writes that the store refused", registry=self.registry
        )
        self._scrubbed = Counter(
            "contentcache_scrubbed", "Stored blobs that were hashed again", registry=self.registry
        )
        self._scrub_failures = Counter(
            "contentcache_scrub_failures",
            "Stored blobs that turned out wrong or unreadable",
            registry=self.registry,
        )
        self._deep = Counter(
            "contentcache_deep_chains",
            "Requests through more than two caches",
            registry=self.registry,
        )
        self._refusals = Counter(
            "contentcache_limits_reached", "Requests refused by a limit", ["limit"], registry=self.registry
        )
        self._seconds = Histogram(
            "contentcache_request_seconds",
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

    def watch_upstream(self, host: str, is_well: Callable[[], bool]) -> None:
        """Whether an upstream host is in good standing."""
        if not hasattr(self, "_upstreams"):
            self._upstreams = Gauge(
                "contentcache_upstream_up",
                "1 where a host is in good standing, 0 while it is set back",
                ["host"],
                registry=self.registry,
            )
        self._upstreams.labels(host).set_function(lambda: float(is_well()))

    def watch_certificate(self, host: str, seconds_left: Callable[[], float]) -> None:
        """How long the certificate of a host is still good."""
        if not hasattr(self, "_certificates"):
            self._certificates = Gauge(
                "contentcache_certificate_expiry_seconds",
                "Seconds until a certificate ends, 0 where there is none",
                ["host"],
                registry=self.registry,
            )
            self._certificates_asked = Counter(
                "contentcache_certificate_attempts",
                "Attempts to get a certificate by what came of them",
                ["host", "outcome"],
                registry=self.registry,
            )
        self._certificates.labels(host).set_function(seconds_left)

    def certificate_asked(self, host: str, succeeded: bool) -> None:
        """A certificate has been got, or not."""
        self._certificates_asked.labels(host, "success" if succeeded else "failure").inc()

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self.registry)

    def answered(self, method: str, kind: str, status: int, seconds: float, sent: int) -> None:
        """A request has been answered, with ``sent`` bytes of body."""
        self._requests.labels(method, kind, str(status)).inc()
        self._seconds.labels(kind).observe(seconds)
        self._served.inc(sent)

    def hits(self, answers: Sequence[tuple[str, int, int]]) -> None:
        """Blobs were sent from the store, at once: the method, the status, and bytes of body, of each."""
        kinds = Counted((method, status) for method, status, _ in answers)
        for (method, status), count in kinds.items():
            self._requests.labels(method, "blobs", str(status)).inc(count)
        seconds = self._seconds.labels("blobs")
        for _ in answers:
            seconds.observe(0.0)
        self._served.inc(sum(sent for _, _, sent in answers))
        got = sum(count for (method, _), count in kinds.items() if method == "GET")
        if got:
            self._outcomes.labels("hit").inc(got)

    def outcome(self, outcome: str) -> None:
        """A content was served from the cache, or otherwise."""
        self._outcomes.labels(outcome).inc()

    def fetched(self, size: int) -> None:
        """Bytes of a content came in."""
        self._fetched.inc(size)

    def asked(self, host: str, outcome: str) -> None:
        """A host has answered, or failed."""
        self._upstream_requests.labels(host, outcome).inc()

    def evicted(self, size: int, reason: str) -> None:
        """A blob has been deleted."""
        self._evictions.labels(reason).inc()
        self._evicted.inc(size)

    def restarted(self) -> None:
        """A content came in wrong."""
        self._restarts.inc()

    def disk_failed(self) -> None:
        """The store has refused a write."""
        self._disk.inc()

    def scrubbed(self, right: bool) -> None:
        """A stored blob was hashed again."""
        self._scrubbed.inc()
        if not right:
            self._scrub_failures.inc()

    def went_deep(self) -> None:
        """A request came through more caches than are good for it."""
        self._deep.inc()

    def limited(self, limit: str) -> None:
        """A limit has been reached."""
        self._refusals.labels(limit).inc()

    def lagged(self, seconds: float) -> None:
        """The reactor came late."""
        self._lag.observe(seconds)
