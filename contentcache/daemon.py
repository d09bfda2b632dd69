"""
The daemon's life: start, sweep, watch, read certificates anew, drain, stop.
"""

from __future__ import annotations

import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.web.http import Request
from twisted.web.server import Site

from contentcache import __version__
from contentcache.assembly import Ensemble, assemble
from contentcache.config.model import Configuration
from contentcache.delivery.tasks import Threads, in_background, sleep
from contentcache.listening import CannotListen, bind, serve, shown
from contentcache.meter import Meter
from contentcache.storage.errors import StorageRefused
from contentcache.storage.opening import Kept, open_storage
from contentcache.storage.rebuild import rebuild_and_tell
from contentcache.tls.files import TLSFault
from contentcache.tls.server import ServerContext
from contentcache.upstream.proxies import ProxyFault
from contentcache.web.debug_api import DebugApi, Finding

_FLUSH_EVERY: Final = 5.0
_LOOK_EVERY: Final = 0.5
_DRAIN_STEP: Final = 0.1


class Daemon(Service):
    """
    All that runs, as one service.

    What cannot be (a port that is taken, a root directory that another daemon has) is said in a sentence,
    and ends the process with status 1.
    """

    name = "contentcache"
    _log = Logger(namespace="contentcache")

    def __init__(
        self,
        configuration: Configuration,
        warnings: tuple[str, ...],
        environ: Mapping[str, str],
        reactor: Any,
    ) -> None:
        self._configuration = configuration
        self._warnings = warnings
        self._environ = environ
        self._reactor = reactor
        self._meter = Meter()
        self._threads = Threads(reactor, configuration.storage.maxthreads, "disk")
        self._sockets: list[socket.socket] = []
        self._ports: list[Any] = []
        self._loops: list[LoopingCall] = []
        self._ensemble: Ensemble | None = None
        self._context: ServerContext | None = None

    # Start.

    def privilegedStartService(self) -> None:
        """
        Bind the addresses, while that is still allowed.
        """
        super().privilegedStartService()
        self._bind()

    def startService(self) -> None:
        """
        Open the store and serve. No upstream is contacted for it.
        """
        super().startService()
        self._bind()
        configuration = self._configuration
        try:
            kept = open_storage(configuration.storage, self._list_anew)
            ensemble = assemble(
                configuration,
                self._environ,
                self._reactor,
                kept=kept,
                run=self._threads,
                meter=self._meter,
            )
            if configuration.http.tls is not None:
                self._context = ServerContext(configuration.http.tls)
        except (StorageRefused, ProxyFault, TLSFault) as error:
            _refuse(str(error))
        except OSError as error:
            _refuse(f"the store at {configuration.storage.rootdirectory} cannot be opened: {error}")
        self._ensemble = ensemble
        self._threads.start()
        self._say_hello(kept)
        if kept.index.rebuilt:
            in_background(self._rebuild(kept))
        ensemble.reaper.start(self._reactor)
        if ensemble.scrub is not None:
            ensemble.scrub.start()
        self._repeat(_FLUSH_EVERY, self._flush)
        self._repeat(_LOOK_EVERY, self._look_for_lag())
        self._serve(ensemble)
        signal.signal(signal.SIGHUP, lambda *_: self._reactor.callFromThread(self._reload))

    def _bind(self) -> None:
        if self._sockets or self._ports:
            return
        http = self._configuration.http
        try:
            self._sockets.append(bind(http.addr))
            if http.debug is not None:
                self._sockets.append(bind(http.debug.addr))
        except CannotListen as error:
            _refuse(str(error))

    def _serve(self, ensemble: Ensemble) -> None:
        served: list[Any] = [ensemble.factory]
        debug = self._configuration.http.debug
        if debug is not None:
            site = _QuietSite(DebugApi(self._findings, self._meter, debug.prometheus).resource())
            served.append(site)
        sockets, self._sockets = self._sockets, []
        fast = self._configuration.downstream.fastpath
        self._ports = [
            serve(
                self._reactor,
                bound,
                each,
                fast=fast and each is ensemble.factory,
                tls=self._context if each is ensemble.factory else None,
            )
            for bound, each in zip(sockets, served, strict=True)
        ]

    def _say_hello(self, kept: Kept) -> None:
        for warning in self._warnings:
            self._log.warn("{warning}", warning=warning)
        http, storage = self._configuration.http, self._configuration.storage
        if kept.store_fault is not None:
            self._log.error("{fault}; what is pulled passes through uncached", fault=kept.store_fault)
        self._log.info(
            "Content Cache {version} listens on {address} ({scheme}), keeps blobs in {store}, asks {origins}",
            version=__version__,
            address=shown(http.addr),
            scheme="http" if http.tls is None else "https",
            store=storage.rootdirectory if storage.driver == "filesystem" else "memory",
            origins=", ".join(upstream.origin for upstream in self._configuration.downstream.upstreams),
        )

    async def _rebuild(self, kept: Kept) -> None:
        await rebuild_and_tell(kept.store, kept.index, self._threads, time.time, time.monotonic)

    def _list_anew(self) -> None:
        """
        The index was made anew while the daemon runs. May be called in any thread.
        """
        self._reactor.callFromThread(self._list_if_running)

    def _list_if_running(self) -> None:
        if self.running and self._ensemble is not None:
            self._ensemble.contents.lost_index()
            in_background(self._rebuild(self._ensemble.kept))

    # While it runs.

    def _repeat(self, seconds: float, call: Callable[[], object]) -> None:
        def whatever_happens() -> object:
            # A LoopingCall never calls again after one exception.
            try:
                result = call()
            except Exception:  # noqa: BLE001
                self._log.failure("something that is done again and again has failed")
                return None
            return result

        loop = LoopingCall(whatever_happens)
        loop.clock = self._reactor
        self._loops.append(loop)
        loop.start(seconds, now=False)

    def _flush(self) -> Deferred[None] | None:
        return in_background(self._ensemble.contents.flush()) if self._ensemble is not None else None

    def _look_for_lag(self) -> Callable[[], None]:
        due = self._reactor.seconds() + _LOOK_EVERY

        def look() -> None:
            nonlocal due
            now = self._reactor.seconds()
            self._meter.lagged(max(0.0, now - due))
            due = now + _LOOK_EVERY

        return look

    def _findings(self) -> Mapping[str, Finding]:
        findings: dict[str, Finding] = {}
        if self._ensemble is None:
            return {"daemon": Finding("fail", "not started")}
        fault = self._ensemble.contents.disk_fault or self._ensemble.kept.fault
        findings["store"] = Finding("ok", "can be written") if fault is None else Finding("warn", fault)
        for registry in self._ensemble.registries:
            well = [host for host, is_well in registry.standing() if is_well]
            bad = [host for host, is_well in registry.standing() if not is_well]
            state: Any = "ok" if not bad else "warn"
            says = f"well: {', '.join(well) or 'none'}" + (f"; set back: {', '.join(bad)}" if bad else "")
            findings[f"upstream {registry.upstream.origin}"] = Finding(state, says)
        return findings

    def _reload(self) -> None:
        """
        ``SIGHUP``: read certificates anew. Broken ones change nothing.
        """
        readers: list[Any] = [*(self._ensemble.trusts if self._ensemble is not None else ())]
        if self._context is not None:
            readers.append(self._context)
        for reader in readers:
            try:
                reader.reload()
            except TLSFault as error:
                self._log.error("certificates are kept as they were: {error}", error=str(error))
            else:
                self._log.info("certificates are read anew, for new connections")

    # Stop.

    def stopService(self) -> Deferred[None]:
        """
        Take no new connection, let transfers finish for ``http.draintimeout``, and put everything away.
        """
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        ensemble = self._ensemble
        for port in self._ports:
            await _maybe(port.stopListening())
        for loop in self._loops:
            if loop.running:
                loop.stop()
        if ensemble is None:
            return
        await self._drain(ensemble)
        await _maybe(ensemble.reaper.stop())
        if ensemble.scrub is not None:
            await ensemble.scrub.stop()
        for transport in ensemble.transports:
            await transport.close()
        try:
            await ensemble.contents.flush()
        except (OSError, StorageRefused) as error:
            self._log.error("the last pulls are not written: {error}", error=str(error))
        ensemble.contents.warm.close()
        self._threads.stop()
        ensemble.kept.index.close()
        if ensemble.kept.lock is not None:
            ensemble.kept.lock.close()

    async def _drain(self, ensemble: Ensemble) -> None:
        factory = ensemble.factory
        factory.close_idle()
        until = self._reactor.seconds() + self._configuration.http.draintimeout
        if factory.busy and self._configuration.http.draintimeout > 0:
            self._log.info("transfers under way that may finish first: {busy}", busy=factory.busy)
        while factory.busy and self._reactor.seconds() < until:
            await sleep(self._reactor, _DRAIN_STEP)
        factory.cut()


class _QuietSite(Site):
    """
    A site whose requests are nothing to write of.
    """

    noisy = False

    def log(self, request: Request) -> None:
        """Nothing."""


async def _maybe(result: Deferred[Any] | None) -> None:
    if result is not None:
        await result


class _NotStarted(SystemExit, Exception):
    """
    The daemon cannot be, and why.

    In the background twistd tells whoever waits for it of an ``Exception`` only; for a ``SystemExit`` the
    process ends without a traceback.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.code = 1


def _refuse(sentence: str) -> NoReturn:
    sys.stderr.write(f"contentcache: {sentence}\n")
    raise _NotStarted(sentence)
