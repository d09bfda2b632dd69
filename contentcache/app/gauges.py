"""What is read for the metrics when somebody looks, or from time to time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial

from contentcache.admin.status import CertificateStatus
from contentcache.core.grants import Grants
from contentcache.core.ports import Timer
from contentcache.delivery.download import Download
from contentcache.delivery.downloads import Downloads
from contentcache.server.factory import ServerFactory
from contentcache.storage.figures import StoreFigures
from contentcache.telemetry.metrics import Meter
from contentcache.upstream.registry import Registry


def watch_daemon(
    meter: Meter, started: float, certificates: Callable[[], Iterable[CertificateStatus]]
) -> None:
    """What there is once, however many workers: the configuration, and the certificates of files."""
    meter.watch_configuration(started)
    meter.watch_series(
        "certificate_expiry_timestamp_seconds",
        lambda: {(each.host,): each.expires or 0.0 for each in certificates()},
    )


def watch_store(meter: Meter, figures: StoreFigures, limit: Callable[[], int | None]) -> None:
    """What is in the store; ``limit`` is ``maxsize``."""
    meter.refresh_by(figures.refresh)
    meter.watch("store_bytes", lambda: figures.now.stored)
    meter.watch("store_blobs", lambda: figures.now.blobs)
    meter.watch("store_limit_bytes", lambda: _or_infinite(limit()))
    meter.watch("store_free_bytes", lambda: figures.now.free)
    meter.watch("partial_bytes", lambda: figures.now.partial)


def _or_infinite(limit: int | None) -> float:
    return math.inf if limit is None else limit


def watch_requests(
    meter: Meter,
    factory: ServerFactory,
    grants: Grants,
    downloads: Downloads,
    registries: Iterable[Registry],
) -> None:
    """
    What is in flight, and the upstreams. In the supervisor too, which has none of it: so the series exist while no
    worker serves.
    """
    meter.watch("connections", lambda: factory.connections)
    meter.watch("grants", lambda: len(grants))

    def own() -> list[Download]:
        return [download for download in downloads if isinstance(download, Download)]

    meter.watch("downloads", lambda: len(own()))
    meter.watch("downloads_waiting", lambda: downloads.waiting)
    meter.watch("download_bytes", lambda: sum(one.planner.held.total() for one in own()))
    meter.watch("download_connections", lambda: sum(one.connections for one in own()))
    meter.watch("download_queue", lambda: downloads.queue)
    # Several registries may have a host in common.
    by_host: dict[str, list[Registry]] = {}
    for registry in registries:
        meter.watch_registry(registry.upstream.origin)
        for host, _is_healthy in registry.health():
            by_host.setdefault(host, []).append(registry)
    for host, asking in by_host.items():
        meter.watch_upstream(
            host, partial(_is_healthy_for_all, host, asking), partial(_last_success, host, asking)
        )


def _is_healthy_for_all(host: str, asking: Iterable[Registry]) -> bool:
    return all(dict(registry.health())[host] for registry in asking)


def _last_success(host: str, asking: Iterable[Registry]) -> float:
    return max(registry.upstream_health.host(host).last_success or 0.0 for registry in asking)


def lag_probe(meter: Meter, timer: Timer, interval: float) -> Callable[[], None]:
    """What is to be called every ``interval`` seconds, and observes how late it is called."""
    due = timer.seconds() + interval

    def look() -> None:
        nonlocal due
        now = timer.seconds()
        meter.lagged(max(0.0, now - due))
        due = now + interval

    return look
