"""
The metrics of the daemon as a table: name, type, labels and meaning.

``docs/metrics.rst`` is made from it (``python -m scripts.metrics``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal, TypeAlias

from attrs import frozen

PREFIX: Final = "contentcache_"

#: Values of the label ``kind``: what a request is about. Everything else is ``other``.
KINDS: Final = ("manifests", "blobs", "tags", "referrers", "catalog", "other")
#: Kinds of what is stored.
STORED_KINDS: Final = ("manifests", "blobs")
CACHE_STATUSES: Final = ("hit", "affirmed", "stale", "miss", "coalesced", "uncached")
#: Cache statuses of what was not downloaded for the request.
HITS: Final = frozenset({"hit", "affirmed", "stale"})
EVICTION_REASONS: Final = ("age", "size", "space", "purge")
LIMITS: Final = ("connections", "fetches", "heads")

_LAG_BUCKETS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_FIRST_BYTE_BUCKETS: Final = (0.001, 0.005, 0.025, 0.1, 0.5, 1, 5, 15, 60)
_DURATION_BUCKETS: Final = (0.001, 0.005, 0.025, 0.1, 0.5, 1, 5, 15, 60, 300)


Role: TypeAlias = Literal["cache", "gateway"]
#: What a metric's value is over several processes.
OverWorkers: TypeAlias = Literal["sum", "lowest", "highest"]


@frozen
class MetricFamily:
    """One metric, by its full name. ``role`` is the one that has it, ``None`` for both."""

    name: str
    type: Literal["counter", "gauge", "histogram"]
    meaning: str
    labels: Sequence[str] = ()
    workers: OverWorkers = "sum"
    buckets: Sequence[float] = ()
    role: Role | None = None


def _counter(name: str, meaning: str, *labels: str, role: Role | None = None) -> MetricFamily:
    return MetricFamily(f"{PREFIX}{name}_total", "counter", meaning, labels, role=role)


def _gauge(
    name: str, meaning: str, *labels: str, workers: OverWorkers = "sum", role: Role | None = None
) -> MetricFamily:
    return MetricFamily(PREFIX + name, "gauge", meaning, labels, workers, role=role)


def _histogram(name: str, meaning: str, *labels: str, buckets: Sequence[float]) -> MetricFamily:
    return MetricFamily(PREFIX + name, "histogram", meaning, labels, buckets=buckets)


REQUESTS: Final = (
    _counter("http_requests", "Requests answered", "method", "kind", "code"),
    _histogram(
        "http_request_duration_seconds",
        "From the end of a request's head to the last byte of the response",
        "kind",
        buckets=_DURATION_BUCKETS,
    ),
    _histogram(
        "http_time_to_first_byte_seconds",
        "From the end of a request's head to the first byte of the response",
        "kind",
        buckets=_FIRST_BYTE_BUCKETS,
    ),
    _counter(
        "pulls", "GET of blobs and manifests by cache status", "registry", "kind", "cache", role="cache"
    ),
    _counter("sent_bytes", "Body bytes to clients; registry is - where none was meant", "registry", "kind"),
    _counter(
        "received_bytes",
        "Body bytes of manifests, blobs and lists from upstreams, also those that are thrown away",
        "registry",
        "kind",
    ),
    _counter(
        "responses_incomplete",
        "Responses that ended short, by who ended them: client, upstream, drain (a shutdown) or disk",
        "by",
    ),
    _counter("requests_limited", "Requests and connections refused by a limit", "limit"),
    _counter("deep_chains", "Requests that came through more than two caches", role="cache"),
    _gauge("connections", "Open connections of clients"),
    _gauge("grants", "Grants remembered: credentials that may read a repository", role="cache"),
)

STORE: Final = (
    _gauge("store_bytes", "Bytes of stored blobs, without partial files", role="cache"),
    _gauge("store_blobs", "Stored blobs, manifests included", role="cache"),
    _gauge("store_limit_bytes", "maxsize, +Inf without it", role="cache"),
    _gauge("store_free_bytes", "Bytes that can still be written to the store's disk", role="cache"),
    _gauge("partial_bytes", "Bytes of partial files on the disk", role="cache"),
    _counter(
        "evictions",
        "Blobs evicted: for their age (blobttl), the store's size (maxsize), the disk's space (minfree), or purged",
        "reason",
        role="cache",
    ),
    _counter("evicted_bytes", "Bytes of evicted blobs", "reason", role="cache"),
    _counter("store_write_errors", "Writes that the store refused", role="cache"),
    _counter("store_verified", "Stored blobs that were hashed again (scrub)", role="cache"),
    _counter("store_corrupt", "Stored blobs that were corrupt or unreadable", role="cache"),
)

DOWNLOADS: Final = (
    _gauge("downloads", "Running downloads, and those in the queue", role="cache"),
    _gauge("download_bytes", "Bytes that running downloads have so far", role="cache"),
    _gauge(
        "download_connections", "Requests to upstreams that running downloads have under way", role="cache"
    ),
    _gauge("downloads_waiting", "Downloads that wait for an unavailable upstream (retryfor)", role="cache"),
    _gauge("download_queue", "Downloads that wait for a permit (limits.fetches)", role="cache"),
    _counter("digest_mismatches", "Downloads whose bytes did not match the digest", role="cache"),
)

UPSTREAMS: Final = (
    _counter(
        "upstream_requests",
        "Requests to upstreams by the status of the answer; failed is none, 5xx, a break in the middle or a"
        " digest mismatch",
        "host",
        "code",
    ),
    _gauge(
        "upstream_healthy", "1 where an upstream host is healthy, 0 where it is not", "host", workers="lowest"
    ),
    _gauge(
        "upstream_last_success_timestamp_seconds",
        "When an upstream host last answered, 0 before the first answer",
        "host",
        workers="highest",
    ),
    _gauge(
        "upstream_ratelimit_remaining",
        "Pulls that an upstream host still allows, as its ratelimit-remaining says; NaN where it says nothing",
        "host",
        workers="lowest",
        role="cache",
    ),
)

GATEWAY: Final = (
    _counter(
        "gateway_redirects", "Blobs that clients were redirected to a cache for", "cache", role="gateway"
    ),
    _gauge("gateway_cache_healthy", "1 where clients can be redirected to a cache", "cache", role="gateway"),
)

PROCESS: Final = (
    _gauge(
        "certificate_expiry_timestamp_seconds", "When a certificate expires, 0 where there is none", "host"
    ),
    _counter("certificate_attempts", "Attempts to get a certificate: success or failure", "host", "outcome"),
    _gauge(
        "config_last_reload_success",
        "1 where the configuration was last read without a fault",
        workers="lowest",
    ),
    _gauge(
        "config_last_reload_success_timestamp_seconds",
        "When the configuration was last read without a fault",
        workers="highest",
    ),
    _gauge("build_info", "1; the labels say which version runs", "version", "python", workers="highest"),
    MetricFamily(
        f"{PREFIX}reactor_lag_seconds",
        "histogram",
        "How late the event loop comes to what is due; above 0.1 the process is short of CPU",
        buckets=_LAG_BUCKETS,
    ),
)

#: The names that distribution has for what is counted above; types are blob and manifest.
ALIASES: Final = (
    MetricFamily("registry_proxy_requests_total", "counter", "Pulls", ("type",), role="cache"),
    MetricFamily(
        "registry_proxy_hits_total", "counter", "Pulls: hit, affirmed, stale", ("type",), role="cache"
    ),
    MetricFamily(
        "registry_proxy_misses_total", "counter", "Pulls: miss, coalesced, uncached", ("type",), role="cache"
    ),
    MetricFamily(
        "registry_proxy_pulled_bytes_total", "counter", "Bytes from upstreams", ("type",), role="cache"
    ),
    MetricFamily("registry_proxy_pushed_bytes_total", "counter", "Bytes to clients", ("type",), role="cache"),
)

#: Of each process, as ``prometheus_client`` has them.
PROCESSES: Final = (
    MetricFamily("process_cpu_seconds_total", "counter", "CPU time, user and system"),
    MetricFamily("process_resident_memory_bytes", "gauge", "Resident memory"),
    MetricFamily("process_virtual_memory_bytes", "gauge", "Virtual memory"),
    MetricFamily("process_start_time_seconds", "gauge", "Start of the first process", workers="lowest"),
    MetricFamily("process_open_fds", "gauge", "Open file descriptors"),
    MetricFamily("process_max_fds", "gauge", "Most open file descriptors"),
)

#: All of them by the heading that the reference has for them.
SECTIONS: Final[Mapping[str, Sequence[MetricFamily]]] = {
    "Requests": REQUESTS,
    "Store": STORE,
    "Downloads": DOWNLOADS,
    "Upstreams": UPSTREAMS,
    "Gateway": GATEWAY,
    "Daemon": PROCESS,
    "Names of distribution": ALIASES,
    "Processes": PROCESSES,
}
#: Those that a :class:`contentcache.telemetry.metrics.Meter` has.
COUNTED: Final = (*REQUESTS, *STORE, *DOWNLOADS, *UPSTREAMS, *GATEWAY, *PROCESS)
