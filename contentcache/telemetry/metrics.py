"""The metrics of one process."""

from __future__ import annotations

import platform
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import product
from typing import Final, TypeAlias

from attrs import frozen
from prometheus_client import (
    CollectorRegistry,
    Counter,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from contentcache import __version__
from contentcache.core.response_end import ENDED_BY
from contentcache.telemetry.collectors import Aliases, BulkHistogram, Gauges, Series, Updates
from contentcache.telemetry.families import (
    CACHE_STATUSES,
    COUNTED,
    EVICTION_REASONS,
    KINDS,
    LIMITS,
    PREFIX,
    STORED_KINDS,
    Role,
)
from contentcache.telemetry.repository_pulls import RepositoryPulls

disable_created_metrics()  # type: ignore[no-untyped-call]  # twice as many lines, and nobody looks at them

_KNOWN_KINDS: Final = frozenset(KINDS)
_NAN: Final = float("nan")

#: A hit of the fast path: method, status, bytes of body, origin, and the seconds from the end of the request's head
#: to the first and to the last byte of the response.
Hit: TypeAlias = tuple[str, int, int, str, float, float]


def registry_name(origin: str) -> str:
    """
    The label of an upstream registry, by its origin: several URLs of one origin have the first one's.

    >>> registry_name("https://registry.example.com")
    'registry.example.com'
    >>> registry_name("https://one.example http://two.example:5000")
    'one.example'
    """
    return origin.partition(" ")[0].rpartition("://")[2]


@frozen
class _HitCounters:
    """Counters of the fast path with one set of labels: to look labels up costs more than to count."""

    requests: Counter
    sent: Counter
    pulls: Counter | None
    seconds: BulkHistogram
    first_byte: BulkHistogram


class Meter:
    """
    The metrics of a daemon with this ``role``, and of its process, in a registry of their own; without a role
    those of both roles.
    """

    def __init__(self, role: Role | None = None) -> None:
        self.registry = CollectorRegistry()
        #: Not a metric: there are too many repositories.
        self.repository_pulls = RepositoryPulls()
        self._families = {
            family.name.removeprefix(PREFIX).removesuffix("_total"): family
            for family in COUNTED
            if role is None or family.role in {None, role}
        }
        self._updates = Updates()
        self.registry.register(
            self._updates
        )  # before the counters that it updates: they are read in this order
        self._counters = {
            name: Counter(family.name, family.meaning, family.labels, registry=self.registry)
            for name, family in self._families.items()
            if family.type == "counter"
        }
        self._histograms = {
            name: BulkHistogram(
                family.name, family.meaning, family.labels, buckets=family.buckets, registry=self.registry
            )
            for name, family in self._families.items()
            if family.type == "histogram"
        }
        if role is not None:
            ProcessCollector(registry=self.registry)
        self._gauges = Gauges()
        self.registry.register(self._gauges)
        if role != "gateway":
            counters = self._counters
            self.registry.register(
                Aliases(counters["pulls"], counters["received_bytes"], counters["sent_bytes"])
            )
        self._hit_counters: dict[tuple[str, int, str], _HitCounters] = {}
        self._ratelimits: dict[str, float] = {}
        #: Whether the configuration was last read without a fault, and when it last was.
        self._reloaded = True, 0.0
        self._refreshes: list[Callable[[], Awaitable[None]]] = []
        self._make_known_series()

    def _make_known_series(self) -> None:
        """Let every series exist whose labels are known."""
        for kind in KINDS:
            self._counters["http_requests"].labels("GET", kind, "200")
            self._histograms["http_request_duration_seconds"].labels(kind)
            self._histograms["http_time_to_first_byte_seconds"].labels(kind)
        self._counters["sent_bytes"].labels("-", "other")
        for by in ENDED_BY:
            self._counters["responses_incomplete"].labels(by)
        for limit in LIMITS:
            self._counters["requests_limited"].labels(limit)
        if "evictions" in self._counters:
            for reason in EVICTION_REASONS:
                self._counters["evictions"].labels(reason)
                self._counters["evicted_bytes"].labels(reason)
        self.watch("build_info", lambda: 1.0, __version__, platform.python_version())

    # What is read when somebody looks.

    def watch(self, name: str, read: Callable[[], float], *labels: str) -> None:
        """A gauge by its name without prefix, whose value ``read`` returns; with ``labels`` one series of it."""
        self.watch_series(name, lambda: {labels: read()})

    def watch_series(self, name: str, read: Callable[[], Series]) -> None:
        """A gauge whose series ``read`` returns: which there are may change."""
        self._gauges.add(self._families[name], read)

    def watch_registry(self, origin: str) -> None:
        """Let the series of an upstream registry exist before its first request."""
        registry = registry_name(origin)
        for kind in KINDS:
            self._counters["sent_bytes"].labels(registry, kind)
            self._counters["received_bytes"].labels(registry, kind)
        if "pulls" in self._counters:
            for kind, status in product(STORED_KINDS, CACHE_STATUSES):
                self._counters["pulls"].labels(registry, kind, status)

    def watch_upstream(
        self, host: str, is_healthy: Callable[[], bool], last_success: Callable[[], float]
    ) -> None:
        """Whether an upstream host is healthy, and when it last answered, in seconds since 1970."""
        for code in ("200", "429", "failed"):
            self._counters["upstream_requests"].labels(host, code)
        self.watch("upstream_healthy", lambda: float(is_healthy()), host)
        self.watch("upstream_last_success_timestamp_seconds", last_success, host)
        if "upstream_ratelimit_remaining" in self._families:
            self.watch("upstream_ratelimit_remaining", lambda: self._ratelimits.get(host, _NAN), host)

    def watch_caches(self, read: Callable[[], Mapping[str, bool]]) -> None:
        """Whether each cache of a gateway is healthy, by its name."""

        def make_series() -> None:
            for name in read():
                self._counters["gateway_redirects"].labels(name)

        self.update_by(make_series)  # before the counters are read, which gauges are after
        self.watch_series(
            "gateway_cache_healthy",
            lambda: {(name,): float(is_healthy) for name, is_healthy in read().items()},
        )

    def watch_certificate(self, host: str, expiry: Callable[[], float]) -> None:
        """When a host's certificate of an ACME server expires, in seconds since 1970; 0 where there is none."""
        for outcome in ("success", "failure"):
            self._counters["certificate_attempts"].labels(host, outcome)
        self.watch("certificate_expiry_timestamp_seconds", expiry, host)

    def watch_configuration(self, now: float) -> None:
        """How reading the configuration went; it was first read at ``now``, in seconds since 1970."""
        self._reloaded = True, now
        self.watch("config_last_reload_success", lambda: float(self._reloaded[0]))
        self.watch("config_last_reload_success_timestamp_seconds", lambda: self._reloaded[1])

    def update_by(self, update: Callable[[], None]) -> None:
        """Have counters brought up to date by ``update`` whenever they are read: what is still going on, so far."""
        self._updates.calls.append(update)

    def reloaded(self, now: float, *, ok: bool) -> None:
        """The configuration was read again at ``now`` (seconds since 1970); ``ok``: without a fault."""
        self._reloaded = ok, now if ok else self._reloaded[1]

    def refresh_by(self, refresh: Callable[[], Awaitable[None]]) -> None:
        """Have what gauges read brought up to date by ``refresh``, which may wait for a disk."""
        self._refreshes.append(refresh)

    async def refreshed(self) -> CollectorRegistry:
        """The metrics, after what gauges read was brought up to date."""
        for refresh in self._refreshes:
            await refresh()
        return self.registry

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self.registry)

    def samples(self) -> list[tuple[str, Mapping[str, str], float]]:
        """Name, labels and value of each sample."""
        families = self.registry.collect()
        return [(one.name, one.labels, one.value) for family in families for one in family.samples]

    # What is counted when it happens.

    def answered(
        self,
        method: str,
        kind: str,
        status: int,
        seconds: float,
        sent: int,
        *,
        upstream: str = "-",
        first_byte: float | None = None,
    ) -> None:
        """
        A request for content of ``upstream`` has been answered, with ``sent`` bytes of body that are not counted
        yet; ``first_byte`` is ``None`` where no byte was sent.
        """
        kind = kind if kind in _KNOWN_KINDS else "other"
        self._counters["http_requests"].labels(method, kind, str(status)).inc()
        self._histograms["http_request_duration_seconds"].labels(kind).observe(seconds)
        if first_byte is not None:
            self._histograms["http_time_to_first_byte_seconds"].labels(kind).observe(first_byte)
        self.sent(upstream, kind, sent)

    def sent(self, upstream: str, kind: str, size: int) -> None:
        """So many more bytes of body have been sent to a client, of a response that may still be running."""
        kind = kind if kind in _KNOWN_KINDS else "other"
        self._counters["sent_bytes"].labels(registry_name(upstream), kind).inc(size)

    def response_incomplete(self, by: str) -> None:
        """A response has ended before its last byte; ``by`` is one of :data:`ENDED_BY`."""
        self._counters["responses_incomplete"].labels(by).inc()

    def hits(self, hits: Sequence[Hit]) -> None:
        """Blobs were sent from the store, at once."""
        groups: dict[tuple[str, int, str], list[Hit]] = {}
        for hit in hits:
            groups.setdefault((hit[0], hit[1], hit[3]), []).append(hit)
        for group, members in groups.items():
            counters = self._hit_counters.get(group) or self._make_hit_counters(*group)
            counters.requests.inc(len(members))
            counters.sent.inc(sum(hit[2] for hit in members))
            if counters.pulls is not None:
                counters.pulls.inc(len(members))
            counters.first_byte.observe_all([hit[4] for hit in members])
            counters.seconds.observe_all([hit[5] for hit in members])

    def _make_hit_counters(self, method: str, status: int, upstream: str) -> _HitCounters:
        registry = registry_name(upstream)
        counters = self._hit_counters[method, status, upstream] = _HitCounters(
            self._counters["http_requests"].labels(method, "blobs", str(status)),
            self._counters["sent_bytes"].labels(registry, "blobs"),
            self._counters["pulls"].labels(registry, "blobs", "hit") if method == "GET" else None,
            self._histograms["http_request_duration_seconds"].labels("blobs"),
            self._histograms["http_time_to_first_byte_seconds"].labels("blobs"),
        )
        return counters

    def pulled(self, origin: str, repository: str, kind: str, status: str) -> None:
        """A blob or manifest is about to be sent; ``status`` is one of the cache statuses."""
        self._counters["pulls"].labels(registry_name(origin), kind, status).inc()
        if kind == "manifests":
            self.repository_pulls.add(registry_name(origin), repository)

    def received_counter(self, origin: str, kind: str) -> Callable[[float], None]:
        """Counts bytes of body that come in. For each body one: to look labels up costs more than to count."""
        return self._counters["received_bytes"].labels(registry_name(origin), kind).inc

    def asked(self, host: str, code: str) -> None:
        """A host has answered, or failed."""
        self._counters["upstream_requests"].labels(host, code).inc()

    def ratelimit_remaining(self, host: str, requests: int) -> None:
        """A host says how many requests it still allows."""
        self._ratelimits[host] = requests

    def evicted(self, size: int, reason: str) -> None:
        """A blob has been evicted."""
        self._counters["evictions"].labels(reason).inc()
        self._counters["evicted_bytes"].labels(reason).inc(size)

    def digest_mismatch(self) -> None:
        """The bytes of a download did not match its digest."""
        self._counters["digest_mismatches"].inc()

    def store_write_error(self) -> None:
        """The store has refused a write."""
        self._counters["store_write_errors"].inc()

    def store_verified(self, right: bool) -> None:
        """A stored blob was hashed again."""
        self._counters["store_verified"].inc()
        if not right:
            self._counters["store_corrupt"].inc()

    def went_deep(self) -> None:
        """A request came through more caches than are good for it."""
        self._counters["deep_chains"].inc()

    def limited(self, limit: str) -> None:
        """A limit has been reached."""
        self._counters["requests_limited"].labels(limit).inc()

    def redirected(self, cache: str) -> None:
        """A client was redirected to a cache of this gateway."""
        self._counters["gateway_redirects"].labels(cache).inc()

    def certificate_asked(self, host: str, succeeded: bool) -> None:
        """A certificate has been got, or not."""
        self._counters["certificate_attempts"].labels(host, "success" if succeeded else "failure").inc()

    def lagged(self, seconds: float) -> None:
        """The reactor came late."""
        self._histograms["reactor_lag_seconds"].observe(seconds)
