"""
The daemon as a cache.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from contentcache.assembly import Ensemble, assemble
from contentcache.auth.interfaces import AuthFault
from contentcache.config.model import Configuration
from contentcache.delivery.tasks import Threads, in_background
from contentcache.meter import Meter
from contentcache.role import CannotBe, Reloading, Repeat
from contentcache.storage.errors import StorageRefused
from contentcache.storage.opening import Kept, open_storage
from contentcache.storage.rebuild import rebuild_and_tell
from contentcache.tls.files import TLSFault
from contentcache.upstream.proxies import ProxyFault
from contentcache.web.debug_api import Finding
from contentcache.web.factory import RegistryFactory

_FLUSH_EVERY: Final = 5.0


class Caching:
    """
    A :class:`contentcache.role.Role`: the store, and everything that serves from it. No upstream is
    contacted in order to start.

    :raises CannotBe: as it says.
    """

    _log = Logger(namespace="contentcache")

    def __init__(
        self,
        configuration: Configuration,
        environ: Mapping[str, str],
        reactor: Any,
        threads: Threads,
        meter: Meter,
    ) -> None:
        self._configuration = configuration
        self._reactor = reactor
        self._threads = threads
        self._running = False
        try:
            kept = open_storage(configuration.storage, self._list_anew)
            self._ensemble: Ensemble = assemble(
                configuration, environ, reactor, kept=kept, run=threads, meter=meter
            )
        except (StorageRefused, ProxyFault, TLSFault, AuthFault) as error:
            raise CannotBe(str(error)) from error
        except OSError as error:
            where = configuration.storage.rootdirectory
            raise CannotBe(f"the store at {where} cannot be opened: {error}") from error

    @property
    def factory(self) -> RegistryFactory:
        """Makes the protocol of each connection."""
        return self._ensemble.factory

    @property
    def reloading(self) -> Sequence[Reloading]:
        """Whoever has certificates."""
        return self._ensemble.trusts

    def start(self, repeat: Repeat) -> None:
        """Begin to sweep."""
        self._running = True
        kept = self._ensemble.kept
        if kept.store_fault is not None:
            self._log.error("{fault}; what is pulled passes through uncached", fault=kept.store_fault)
        if kept.index.rebuilt:
            in_background(self._rebuild(kept))
        self._ensemble.reaper.start(self._reactor)
        if self._ensemble.scrub is not None:
            self._ensemble.scrub.start()
        repeat(_FLUSH_EVERY, self._flush)

    async def stop(self) -> None:
        """Sweep no more, and write down what was pulled."""
        self._running = False
        ensemble = self._ensemble
        stopping = ensemble.reaper.stop()
        if stopping is not None:
            await stopping
        if ensemble.scrub is not None:
            await ensemble.scrub.stop()
        for transport in ensemble.transports:
            await transport.close()
        try:
            await ensemble.contents.flush()
        except (OSError, StorageRefused) as error:
            self._log.error("the last pulls are not written: {error}", error=str(error))
        ensemble.contents.warm.close()

    def close(self) -> None:
        """Let go of the root directory."""
        kept = self._ensemble.kept
        kept.index.close()
        if kept.lock is not None:
            kept.lock.close()

    def findings(self) -> Mapping[str, Finding]:
        """The store, and every origin."""
        findings: dict[str, Finding] = {}
        fault = self._ensemble.contents.disk_fault or self._ensemble.kept.fault
        findings["store"] = Finding("ok", "can be written") if fault is None else Finding("warn", fault)
        for registry in self._ensemble.registries:
            well = [host for host, is_well in registry.standing() if is_well]
            bad = [host for host, is_well in registry.standing() if not is_well]
            state: Any = "ok" if not bad else "warn"
            says = f"well: {', '.join(well) or 'none'}" + (f"; set back: {', '.join(bad)}" if bad else "")
            findings[f"upstream {registry.upstream.origin}"] = Finding(state, says)
        return findings

    def introduction(self) -> str:
        """Where blobs are kept, and who is asked."""
        storage = self._configuration.storage
        store = storage.rootdirectory if storage.driver == "filesystem" else "memory"
        origins = ", ".join(upstream.origin for upstream in self._configuration.downstream.upstreams)
        return f"keeps blobs in {store}, asks {origins}"

    def _flush(self) -> Deferred[None]:
        return in_background(self._ensemble.contents.flush())

    async def _rebuild(self, kept: Kept) -> None:
        await rebuild_and_tell(kept.store, kept.index, self._threads, time.time, time.monotonic)

    def _list_anew(self) -> None:
        """
        The index was made anew while the daemon runs. May be called in any thread.
        """
        self._reactor.callFromThread(self._list_if_running)

    def _list_if_running(self) -> None:
        if self._running:
            self._ensemble.contents.lost_index()
            in_background(self._rebuild(self._ensemble.kept))
