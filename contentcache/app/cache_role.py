"""The daemon as a cache."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final, Literal

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from contentcache.admin.history_recorder import INTERVAL, HistoryRecorder
from contentcache.admin.status import ProcessStatus, Sample
from contentcache.aio.reactor import DaemonReactor
from contentcache.aio.tasks import in_background
from contentcache.aio.threads import Threads
from contentcache.app.assembly import CacheServices, assemble
from contentcache.app.cache_report import process_status, savings_by_period, store_status
from contentcache.app.image_report import ImageReport
from contentcache.app.role import Platform, Repeat, RoleReport, StartupError
from contentcache.auth.interfaces import AuthFault
from contentcache.config.model import Configuration
from contentcache.core.live import Live
from contentcache.delivery.other_workers import OtherWorkers
from contentcache.server.debug_site import HealthCheck
from contentcache.server.factory import ServerFactory
from contentcache.storage.index_recovery import rebuild_index
from contentcache.storage.interfaces import StorageError
from contentcache.storage.opening import Storage, open_storage, own_file
from contentcache.telemetry.metrics import Meter
from contentcache.tls.files import Reloadable, TLSConfigurationError
from contentcache.upstream.health import PROBE_INTERVAL
from contentcache.upstream.proxies import ProxyFault

_FLUSH_EVERY: Final = 5.0


class CacheRole:
    """
    A :class:`contentcache.app.role.Role`: the store, and everything that serves from it. No upstream is
    contacted in order to start. With ``other_workers``, ``storage`` is shared by all of them, and ``samples()``
    gives the metrics of all.

    :raises StartupError: the store, or a file of the configuration, cannot be used.
    """

    _log = Logger(namespace="contentcache")

    def __init__(
        self,
        live: Live[Configuration],
        environ: Mapping[str, str],
        reactor: DaemonReactor,
        threads: Threads,
        meter: Meter,
        *,
        samples: Callable[[], Awaitable[Iterable[Sample]]] | None = None,
        other_workers: OtherWorkers | None = None,
        storage: Storage | None = None,
    ) -> None:
        self._live = live
        configuration = live.now
        self._reactor = reactor
        self._threads = threads
        self._running = False
        self._other_workers = other_workers or OtherWorkers()
        try:
            storage = storage or open_storage(configuration.storage, self._index_lost)
            #: Everything that was built for it.
            self.services: CacheServices = assemble(
                live,
                Platform.of_process(environ, reactor, threads),
                storage=storage,
                meter=meter,
                other_workers=self._other_workers,
            )
            #: In the process that maintains the store.
            self.history = self._open_history(meter, samples) if self._other_workers.maintains_store else None
            self._images = ImageReport(storage.index, threads, reactor.seconds)
        except (StorageError, ProxyFault, TLSConfigurationError, AuthFault) as error:
            raise StartupError(str(error)) from error
        except OSError as error:
            where = configuration.storage.rootdirectory
            raise StartupError(f"the store at {where} cannot be opened: {error}") from error

    def _open_history(
        self, meter: Meter, samples: Callable[[], Awaitable[Iterable[Sample]]] | None
    ) -> HistoryRecorder:
        async def own_samples() -> Iterable[Sample]:
            return meter.samples()

        settings = self._live.now.storage
        path = own_file(settings, "history.json") if settings.driver == "filesystem" else None
        return HistoryRecorder(
            path, samples or own_samples, meter.repository_pulls, run=self._threads, wall=time.time
        )

    @property
    def factory(self) -> ServerFactory:
        """Makes the protocol of each connection."""
        return self.services.factory

    @property
    def reloading(self) -> Sequence[Reloadable]:
        """The certificates for upstreams."""
        return (self.services.upstreams.trusts,)

    def start(self, repeat: Repeat) -> None:
        """Start flushing pulls, evicting and scrubbing."""
        self._running = True
        if self._other_workers.serves_clients:
            repeat(_FLUSH_EVERY, self._flush)
            for registry in self.services.upstreams.registries:
                repeat(PROBE_INTERVAL, registry.upstream_health.probe_unhealthy)
        if self._other_workers.maintains_store:
            self._start_maintenance()
        if (history := self.history) is not None:
            repeat(INTERVAL, lambda: in_background(history.record()))

    def _start_maintenance(self) -> None:
        storage = self.services.storage
        if storage.store_fault is not None:
            self._log.error("store not writable, pulls pass through uncached", reason=storage.store_fault)
        if storage.index.rebuilt:
            in_background(self._rebuild(storage))
        self.services.evictor.start(self._reactor)
        if self.services.scrubber is not None:
            self.services.scrubber.start()

    async def stop(self) -> None:
        """Stop maintenance, close transports, and write the last pulls."""
        self._running = False
        services = self.services
        if self.history is not None:
            await self.history.record()
        if self._other_workers.maintains_store:
            await services.evictor.stop()
        if self._other_workers.maintains_store and services.scrubber is not None:
            await services.scrubber.stop()
        for registry in services.upstreams.registries:
            registry.close()
        for transport in services.upstreams.transports:
            await transport.close()
        try:
            await services.blob_service.flush()
        except (OSError, StorageError) as error:
            self._log.error("last pulls not written", reason=error)
        services.blob_service.hot_blobs.close()

    def close(self) -> None:
        """Close the index and release the lock of the root directory."""
        storage = self.services.storage
        storage.index.close()
        if storage.lock is not None:
            storage.lock.close()

    def health(self) -> Mapping[str, HealthCheck]:
        """The store, and every origin."""
        health: dict[str, HealthCheck] = {}
        fault = self.services.blob_service.health.fault or self.services.storage.fault
        health["store"] = HealthCheck("ok", "writable") if fault is None else HealthCheck("warn", fault)
        for registry in self.services.upstreams.registries:
            healthy = [host for host, is_healthy in registry.health() if is_healthy]
            unhealthy = [host for host, is_healthy in registry.health() if not is_healthy]
            state: Literal["ok", "warn"] = "warn" if unhealthy else "ok"
            detail = f"healthy: {', '.join(healthy) or 'none'}"
            if unhealthy:
                detail += f"; unhealthy: {', '.join(unhealthy)}"
            health[f"upstream {registry.upstream.origin}"] = HealthCheck(
                state, detail, registry.upstream_health.hosts()
            )
        return health

    def process_status(self) -> ProcessStatus:
        """Downloads of this process, and hosts as it sees them."""
        return process_status(self.services, wall=time.time(), monotonic=self._reactor.seconds())

    async def report(self, samples: Sequence[Sample], started: float) -> RoleReport:
        """What was saved, and what is stored."""
        now, history, images = time.time(), None, None
        if self.history is not None:
            history = await self.history.update()
            images = await self._images.images(history, now)
        savings = savings_by_period(samples, started, history, now)
        store = await store_status(self._live.now, self.services, samples, self._threads)
        return RoleReport(savings, store, images)

    def startup_fields(self) -> Mapping[str, object]:
        """Where blobs are stored, and the upstreams."""
        storage = self._live.now.storage
        store = storage.rootdirectory if storage.driver == "filesystem" else "memory"
        origins = [upstream.origin for upstream in self._live.now.downstream.upstreams]
        return {"store": store, "upstreams": origins, "role": "cache"}

    def _flush(self) -> Deferred[None]:
        return in_background(self._flush_or_log())

    async def _flush_or_log(self) -> None:
        try:
            await self.flush()
        except OSError as error:
            self._log.error("last pulls not written", reason=error)

    async def flush(self) -> None:
        """Write the last pulls into the index, and report to other workers what is still in use."""
        blob_service = self.services.blob_service
        try:
            await blob_service.flush()
        finally:
            self._other_workers.on_review(blob_service.in_use)

    async def _rebuild(self, storage: Storage) -> None:
        await rebuild_index(storage.store, storage.index, self._threads, time.time, time.monotonic)

    def _index_lost(self) -> None:
        """The index was replaced while the daemon runs. May be called in any thread."""
        self._reactor.callFromThread(self._rebuild_if_running)

    def _rebuild_if_running(self) -> None:
        if self._running:
            self.services.blob_service.lost_index()
            self._other_workers.on_index_lost()
            in_background(self._rebuild(self.services.storage))
