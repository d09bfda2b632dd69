"""What a cache adds to the status document."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Final

from contentcache.admin.history import History, day_of, sums
from contentcache.admin.status import (
    DownloadStatus,
    Periods,
    ProcessStatus,
    Sample,
    Savings,
    StoredBlob,
    StoreStatus,
    UpstreamStatus,
    traffic,
)
from contentcache.app.assembly import CacheServices
from contentcache.config.model import Configuration
from contentcache.core.ports import Run
from contentcache.delivery.download import Download
from contentcache.storage.interfaces import IndexDamaged
from contentcache.telemetry.metrics import registry_name

#: Blobs that are shown as evicted next.
_MOST_BLOBS: Final = 10
_DAYS: Final = 30


def process_status(services: CacheServices, *, wall: float, monotonic: float) -> ProcessStatus:
    """Downloads of this process, and the hosts of upstream registries as it sees them."""
    downloads = tuple(_downloads(services, wall, monotonic))
    upstreams = tuple(
        UpstreamStatus.of(registry_name(registry.upstream.origin), host)
        for registry in services.upstreams.registries
        for host in registry.upstream_health.hosts()
    )
    return ProcessStatus(downloads, upstreams)


def _downloads(services: CacheServices, wall: float, monotonic: float) -> Iterator[DownloadStatus]:
    for download in services.blob_service.downloads:
        # Those of other workers are in what these report.
        if not isinstance(download, Download) or download.in_place:
            continue
        progress, held = download.progress, download.planner.held.total()
        age = max(0.001, monotonic - progress.started)
        yield DownloadStatus(
            registry=registry_name(download.key.origin),
            digest=str(download.key.digest),
            repository=download.subscribers.repository,
            kind="manifests" if download.options.is_manifest else "blobs",
            bytes=held,
            size=download.size,
            bytes_per_second=round(progress.received / age, 1),
            subscribers=len(download.subscribers),
            upstream=download.stream.host,
            started=wall - age,
        )


def savings_by_period(
    samples: Sequence[Sample], started: float, history: History | None, now: float
) -> Periods:
    """What was saved since the start, today and in the last 30 days."""
    since_start = Savings.of(started, traffic(samples))
    if history is None:
        return Periods(since_start)
    days = history.last(_DAYS, day_of(now))
    every = [one for day in days for one in day.registries.values()]
    savings = tuple(day.savings for day in days)
    return Periods(since_start, savings[-1], Savings.of(savings[0].since, sums(every)), savings)


async def _evicted_next(services: CacheServices, run: Run) -> AsyncIterator[StoredBlob]:
    number = 0
    async for candidate in services.evictor.inventory.oldest(()):
        names = await run(services.storage.index.names, candidate.digest)
        repository = next(iter(names.repositories), None)
        yield StoredBlob(str(candidate.digest), repository, candidate.size, candidate.since)
        number += 1
        if number == _MOST_BLOBS:
            break


async def store_status(
    configuration: Configuration, services: CacheServices, samples: Sequence[Sample], run: Run
) -> StoreStatus:
    """How full the store is, by the metrics, and which blobs are evicted next."""
    gauges = {name.removeprefix("contentcache_"): value for name, labels, value in samples if not labels}

    def gauge(name: str) -> int | None:
        value = gauges.get(name)
        return int(value) if value is not None and math.isfinite(value) else None

    storage, options = configuration.storage, configuration.downstream
    on_disk = storage.driver == "filesystem"
    fault = services.blob_service.health.fault or services.storage.fault
    evicted_next: tuple[StoredBlob, ...] = ()
    try:
        evicted_next = tuple([one async for one in _evicted_next(services, run)])
    except (OSError, IndexDamaged) as error:
        fault = fault or str(error)
    return StoreStatus(
        path=storage.rootdirectory if on_disk else None,
        used_bytes=gauge("store_bytes"),
        limit_bytes=options.maxsize,
        free_bytes=gauge("store_free_bytes"),
        min_free_bytes=options.minfree if on_disk else None,
        blobs=gauge("store_blobs"),
        partial_bytes=gauge("partial_bytes"),
        fault=fault,
        evicted_next=evicted_next,
    )
