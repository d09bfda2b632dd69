"""The daemon as a cache."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from contentcache.aio.reactor import DaemonReactor
from contentcache.aio.tasks import in_background
from contentcache.aio.threads import Threads
from contentcache.app.assembly import Ensemble, assemble
from contentcache.app.role import CannotBe, Platform, Repeat
from contentcache.auth.interfaces import AuthFault
from contentcache.config.model import Configuration
from contentcache.delivery.other_workers import OtherWorkers
from contentcache.server.debug_site import Finding
from contentcache.server.factory import ServerFactory
from contentcache.storage.index_recovery import rebuild_index
from contentcache.storage.interfaces import StorageError
from contentcache.storage.opening import Storage, open_storage
from contentcache.telemetry.metrics import Meter
from contentcache.tls.files import Reloadable, TLSConfigurationError
from contentcache.upstream.proxies import ProxyFault

_FLUSH_EVERY: Final = 5.0


class Caching:
    """
    A :class:`contentcache.app.role.Role`: the store, and everything that serves from it. No upstream is
    contacted in order to start. Beside ``other_workers`` it is one part of that, over what is ``kept`` for all.

    :raises CannotBe: as it says.
    """

    _log = Logger(namespace="contentcache")

    def __init__(
        self,
        configuration: Configuration,
        environ: Mapping[str, str],
        reactor: DaemonReactor,
        threads: Threads,
        meter: Meter,
        *,
        other_workers: OtherWorkers | None = None,
        kept: Storage | None = None,
    ) -> None:
        self._configuration = configuration
        self._reactor = reactor
        self._threads = threads
        self._running = False
        self._other_workers = other_workers or OtherWorkers()
        try:
            kept = kept or open_storage(configuration.storage, self._list_anew)
            #: What it is made of.
            self.ensemble: Ensemble = assemble(
                configuration,
                Platform.of_process(environ, reactor, threads),
                kept=kept,
                meter=meter,
                other_workers=self._other_workers,
            )
        except (StorageError, ProxyFault, TLSConfigurationError, AuthFault) as error:
            raise CannotBe(str(error)) from error
        except OSError as error:
            where = configuration.storage.rootdirectory
            raise CannotBe(f"the store at {where} cannot be opened: {error}") from error

    @property
    def factory(self) -> ServerFactory:
        """Makes the protocol of each connection."""
        return self.ensemble.factory

    @property
    def reloading(self) -> Sequence[Reloadable]:
        """Whoever has certificates."""
        return (self.ensemble.trusts,)

    def start(self, repeat: Repeat) -> None:
        """Begin to sweep."""
        self._running = True
        if self._other_workers.serves_clients:
            repeat(_FLUSH_EVERY, self._flush)
        if self._other_workers.maintains_store:
            self._tend()

    def _tend(self) -> None:
        kept = self.ensemble.kept
        if kept.store_fault is not None:
            self._log.error("store not writable, pulls pass through uncached", reason=kept.store_fault)
        if kept.index.rebuilt:
            in_background(self._rebuild(kept))
        self.ensemble.evictor.start(self._reactor)
        if self.ensemble.scrub is not None:
            self.ensemble.scrub.start()

    async def stop(self) -> None:
        """Sweep no more, and write down what was pulled."""
        self._running = False
        ensemble = self.ensemble
        if self._other_workers.maintains_store:
            await ensemble.evictor.stop()
        if self._other_workers.maintains_store and ensemble.scrub is not None:
            await ensemble.scrub.stop()
        for transport in ensemble.transports:
            await transport.close()
        try:
            await ensemble.blob_service.flush()
        except (OSError, StorageError) as error:
            self._log.error("last pulls not written", reason=error)
        ensemble.blob_service.hot_blobs.close()

    def close(self) -> None:
        """Let go of the root directory."""
        kept = self.ensemble.kept
        kept.index.close()
        if kept.lock is not None:
            kept.lock.close()

    def findings(self) -> Mapping[str, Finding]:
        """The store, and every origin."""
        findings: dict[str, Finding] = {}
        fault = self.ensemble.blob_service.disk_fault or self.ensemble.kept.fault
        findings["store"] = Finding("ok", "can be written") if fault is None else Finding("warn", fault)
        for registry in self.ensemble.registries:
            healthy = [host for host, is_healthy in registry.health() if is_healthy]
            unhealthy = [host for host, is_healthy in registry.health() if not is_healthy]
            state: Any = "warn" if unhealthy else "ok"
            says = f"healthy: {', '.join(healthy) or 'none'}"
            if unhealthy:
                says += f"; unhealthy: {', '.join(unhealthy)}"
            findings[f"upstream {registry.upstream.origin}"] = Finding(state, says)
        return findings

    def introduction(self) -> Mapping[str, object]:
        """Where blobs are stored, and the upstreams."""
        storage = self._configuration.storage
        store = storage.rootdirectory if storage.driver == "filesystem" else "memory"
        origins = [upstream.origin for upstream in self._configuration.downstream.upstreams]
        return {"store": store, "upstreams": origins}

    def _flush(self) -> Deferred[None]:
        return in_background(self._flush_or_tell())

    async def _flush_or_tell(self) -> None:
        try:
            await self.flush()
        except OSError as error:
            self._log.error("last pulls not written", reason=error)

    async def flush(self) -> None:
        """Write the last pulls into the index, and tell what is still in use."""
        blob_service = self.ensemble.blob_service
        try:
            await blob_service.flush()
        finally:
            self._other_workers.on_review(blob_service.in_use)

    async def _rebuild(self, kept: Storage) -> None:
        await rebuild_index(kept.store, kept.index, self._threads, time.time, time.monotonic)

    def _list_anew(self) -> None:
        """The index was made anew while the daemon runs. May be called in any thread."""
        self._reactor.callFromThread(self._list_if_running)

    def _list_if_running(self) -> None:
        if self._running:
            self.ensemble.blob_service.lost_index()
            self._other_workers.on_index_lost()
            in_background(self._rebuild(self.ensemble.kept))
