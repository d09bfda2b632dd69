"""
The status document: what the daemon knows of itself, as values that the admin API, the commands and the status
page show.

Times are seconds since the epoch, and RFC 3339 in JSON. What a value cannot tell is ``None``. ``registry`` is the
label of an upstream registry in the metrics: its origin without the scheme.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Annotated, Any, Final, Literal

from attrs import asdict, evolve, frozen

from contentcache.core.host_health import HostHealth
from contentcache.core.shown import rfc3339

#: Name, labels and value of a sample of a metric.
Sample = tuple[str, Mapping[str, str], float]

#: Seconds since the epoch.
Time = Annotated[float, "time"]

#: Errors that are shown: the last ones of each process, and of the whole daemon.
MOST_ERRORS: Final = 50
_HITS: Final = frozenset({"hit", "affirmed", "stale", "coalesced"})


@frozen
class Traffic:
    """
    Blobs and manifests of one upstream registry, or of all: bytes to clients and from upstream, pulls (``GET``),
    and those of them that needed no bytes from upstream of their own.
    """

    registry: str
    sent_bytes: int = 0
    received_bytes: int = 0
    pulls: int = 0
    hits: int = 0


@frozen
class Savings:
    """
    What the cache saved in a period that began at ``since``: bytes that were sent and did not have to be received
    for it, 0 where more was received or nothing was a hit. ``hit_ratio`` is between 0 and 1, ``None`` before the
    first pull.
    """

    since: Time
    saved_bytes: int
    hit_ratio: float | None
    sent_bytes: int
    received_bytes: int
    pulls: int
    hits: int
    registries: tuple[Traffic, ...] = ()

    @classmethod
    def of(cls, since: float, registries: Iterable[Traffic]) -> Savings:
        """
        Those of these registries.

        >>> Savings.of(0.0, [Traffic("a", 300, 100, 4, 3)]).saved_bytes
        200
        """
        every = tuple(sorted(registries, key=lambda one: one.registry))
        sent, received = sum(one.sent_bytes for one in every), sum(one.received_bytes for one in every)
        pulls, hits = sum(one.pulls for one in every), sum(one.hits for one in every)
        ratio = round(hits / pulls, 4) if pulls else None
        # What was sent without a hit are errors, and bytes that had to be received.
        saved = max(0, sent - received) if hits else 0
        return cls(since, saved, ratio, sent, received, pulls, hits, every)


def traffic(samples: Iterable[Sample]) -> tuple[Traffic, ...]:
    """
    The traffic of each upstream registry since the start, from the daemon's metrics.

    >>> traffic([("contentcache_sent_bytes_total", {"registry": "a", "kind": "blobs"}, 5.0)])
    (Traffic(registry='a', sent_bytes=5, received_bytes=0, pulls=0, hits=0),)
    """
    fields = {
        "contentcache_sent_bytes_total": "sent_bytes",
        "contentcache_received_bytes_total": "received_bytes",
        "contentcache_pulls_total": "pulls",
    }
    sums: dict[str, dict[str, int]] = {}
    for name, labels, value in samples:
        registry = labels.get("registry", "-")
        if name not in fields or registry == "-" or labels.get("kind") not in {"blobs", "manifests"}:
            continue
        of_registry = sums.setdefault(registry, {})
        names = [fields[name]] + (["hits"] if labels.get("cache") in _HITS else [])
        for each in names:
            of_registry[each] = of_registry.get(each, 0) + int(value)
    return tuple(Traffic(registry, **of) for registry, of in sorted(sums.items()))


@frozen
class DownloadStatus:
    """
    A running download. ``bytes`` are here of ``size``; ``bytes_per_second`` since it began; ``upstream`` is the
    host that sends now.
    """

    registry: str
    digest: str | None
    repository: str | None
    kind: str
    bytes: int
    size: int | None
    bytes_per_second: float
    subscribers: int
    upstream: str | None
    started: Time


@frozen
class UpstreamStatus:
    """
    An upstream host. ``since`` is when it became healthy or unhealthy, ``reason`` why it is unhealthy;
    ``round_trip_seconds`` is how long the header of its last answer took.
    """

    registry: str
    host: str
    healthy: bool
    since: Time | None = None
    reason: str | None = None
    last_success: Time | None = None
    next_try: Time | None = None
    round_trip_seconds: float | None = None

    @classmethod
    def of(cls, registry: str, host: HostHealth) -> UpstreamStatus:
        """What is known of a host of ``registry``."""
        return cls(registry, **asdict(host))


@frozen
class LoggedError:
    """A line of the log of level ``warn`` or ``error``: its phrase, and the phrase with all its fields."""

    time: Time
    level: str
    event: str
    text: str
    worker: int | None = None


@frozen
class ProcessStatus:
    """What each process that serves clients knows, and the others do not."""

    downloads: tuple[DownloadStatus, ...] = ()
    upstreams: tuple[UpstreamStatus, ...] = ()
    errors: tuple[LoggedError, ...] = ()


@frozen
class StoredBlob:
    """A blob of the store, with a repository that has it."""

    digest: str | None
    repository: str | None
    bytes: int
    last_pull: Time


@frozen
class StoreStatus:
    """
    The store: bytes of blobs and partial files, the limits ``maxsize`` and ``minfree``, what the disk has free,
    and the blobs that are evicted next.
    """

    path: str | None
    used_bytes: int | None
    limit_bytes: int | None
    free_bytes: int | None
    min_free_bytes: int | None
    blobs: int | None
    partial_bytes: int | None
    fault: str | None
    evicted_next: tuple[StoredBlob, ...] = ()


@frozen
class CertificateStatus:
    """The certificate that clients are shown for a host, and what is to be said of it."""

    host: str
    expires: Time | None
    state: Literal["ok", "warn"]
    detail: str


@frozen
class ReloadStatus:
    """The result of a reload of the configuration: keys that changed, that need a restart, and what is wrong."""

    time: Time
    ok: bool
    changed: tuple[str, ...] = ()
    restart_needed: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()


@frozen
class CacheSummary:
    """A cache that a gateway sends clients to."""

    name: str
    host: str
    healthy: bool
    since: Time | None
    reason: str | None
    users: int
    redirects: int


@frozen
class GatewayStatus:
    """What only a gateway has. ``users`` are the accounts that it has seen."""

    registry: str
    issuer: str
    users: int
    redirects: int
    caches: tuple[CacheSummary, ...] = ()


@frozen
class ImageStatus:
    """A repository: what is known to be stored of it, and how often its manifests were pulled in 30 days."""

    registry: str
    repository: str | None
    bytes: int | None
    blobs: int | None
    last_pull: Time | None
    pulls: int


@frozen
class Images:
    """The repositories that take most of the store, and those that are pulled most."""

    largest: tuple[ImageStatus, ...] = ()
    hottest: tuple[ImageStatus, ...] = ()


@frozen
class Workers:
    """How many processes serve clients, and how many should."""

    serving: int
    configured: int


@frozen
class Periods:
    """Savings since the start, and, where they are kept, of today, of the last 30 days, and of each of them."""

    start: Savings
    today: Savings | None = None
    days_30: Savings | None = None
    days: tuple[Savings, ...] = ()


@frozen
class Status:
    """The whole document. ``health`` is the worst state of the health checks."""

    version: str
    role: Literal["cache", "gateway"]
    health: Literal["ok", "warn", "fail"]
    pid: int
    time: Time
    started: Time
    uptime_seconds: float
    workers: Workers
    savings: Periods | None
    downloads: tuple[DownloadStatus, ...]
    upstreams: tuple[UpstreamStatus, ...]
    store: StoreStatus | None
    certificates: tuple[CertificateStatus, ...]
    errors: tuple[LoggedError, ...]
    reload: ReloadStatus | None
    gateway: GatewayStatus | None
    images: Images | None = None


def merge(processes: Iterable[ProcessStatus]) -> ProcessStatus:
    """
    What all processes know together. A host that one of them finds unhealthy is unhealthy.

    >>> ok, bad = (UpstreamStatus("a", "https://a", healthy) for healthy in (True, False))
    >>> merge([ProcessStatus(upstreams=(ok,)), ProcessStatus(upstreams=(bad,))]).upstreams == (bad,)
    True
    """
    every = list(processes)
    downloads = sorted((one for of in every for one in of.downloads), key=lambda one: one.started)
    upstreams = sorted((one for of in every for one in of.upstreams), key=_host)
    hosts = [_merge_host(list(of_host)) for _key, of_host in groupby(upstreams, _host)]
    errors = sorted((one for of in every for one in of.errors), key=lambda one: one.time)
    return ProcessStatus(tuple(downloads), tuple(hosts), tuple(errors[-MOST_ERRORS:]))


def _host(upstream: UpstreamStatus) -> tuple[str, str]:
    return upstream.registry, upstream.host


def _merge_host(views: list[UpstreamStatus]) -> UpstreamStatus:
    worst = min(views, key=lambda one: (one.healthy, one.since or 0.0))
    answered = [one for one in views if one.last_success is not None]
    if not answered:
        return worst
    last = max(answered, key=lambda one: one.last_success or 0.0)
    return evolve(worst, last_success=last.last_success, round_trip_seconds=last.round_trip_seconds)


def as_json(value: Any) -> dict[str, Any]:
    """The document, or a part of it, as JSON has it."""
    return asdict(value, value_serializer=_serialize)


def _serialize(_instance: object, attribute: Any, value: Any) -> Any:
    # Annotations of this module are strings.
    if attribute is not None and value is not None and str(attribute.type).startswith("Time"):
        return rfc3339(value)
    return value
