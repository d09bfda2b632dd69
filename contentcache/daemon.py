"""
The daemon's life: start, sweep, watch, read certificates anew, drain, stop.
"""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, NoReturn

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.web.http import Request
from twisted.web.server import Site

from contentcache import __version__
from contentcache.caching import Caching
from contentcache.config.model import Configuration, Downstream, Gateway
from contentcache.delivery.tasks import Threads, sleep
from contentcache.listening import CannotListen, bind, serve, shown
from contentcache.meter import Meter
from contentcache.role import CannotBe, Role
from contentcache.tls.files import TLSFault
from contentcache.tls.hosts import HostContexts
from contentcache.tls.server import ServerContext
from contentcache.upstream.proxies import ProxyFault
from contentcache.web.debug_api import DebugApi, Finding

if TYPE_CHECKING:
    from contentcache.issuance import Issuance

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
        self._role: Role | None = None
        self._context: ServerContext | HostContexts | None = None
        self._issuance: Issuance | None = None

    # Start.

    def privilegedStartService(self) -> None:
        """
        Bind the addresses and read the key of TLS, while that is still allowed.
        """
        super().privilegedStartService()
        self._bind()
        self._read_key()
        self._load()

    def startService(self) -> None:
        """
        Become what the configuration says, and serve. No upstream is contacted for it.
        """
        super().startService()
        self._bind()
        self._read_key()
        try:
            role = self._build()
        except CannotBe as error:
            _refuse(str(error))
        self._role = role
        self._begin_issuance()
        self._threads.start()
        self._say_hello(role)
        role.start(self._repeat)
        self._repeat(_LOOK_EVERY, self._look_for_lag())
        self._serve(role)
        if self._issuance is not None:
            self._issuance.start()
        signal.signal(signal.SIGHUP, lambda *_: self._reactor.callFromThread(self._reload))

    def _build(self) -> Role:
        configuration, middleware = self._configuration, self._configuration.middleware
        if isinstance(middleware, Gateway):
            # Here, so that a cache does not load what a gateway needs.
            from contentcache.gateway.role import Gatekeeping  # noqa: PLC0415

            return Gatekeeping(
                configuration,
                middleware,
                self._environ,
                self._reactor,
                threads=self._threads,
                meter=self._meter,
            )
        return Caching(configuration, self._environ, self._reactor, self._threads, self._meter)

    def _begin_issuance(self) -> None:
        """
        Certificates that come by themselves: in the name of whom we have become, whose files they will be.
        """
        tls = self._configuration.http.tls
        if tls is None or tls.letsencrypt is None:
            return
        # Here, so that those who give files do not load what others need for ACME.
        from contentcache.acme.lock import FolderTaken  # noqa: PLC0415
        from contentcache.issuance import Issuance  # noqa: PLC0415

        try:
            self._issuance = Issuance(
                tls,
                tls.letsencrypt,
                self._configuration.http.addr,
                self._environ,
                run=self._threads,
                reactor=self._reactor,
                meter=self._meter,
            )
        except (FolderTaken, TLSFault, ProxyFault) as error:
            _refuse(str(error))
        self._context = self._issuance.contexts

    def _bind(self) -> None:
        if self._sockets or self._ports:
            return
        http = self._configuration.http
        try:
            self._sockets.append(bind(http.addr))
            if http.debug is not None:
                self._sockets.append(bind(http.debug.addr))
            if (
                http.tls is not None
                and http.tls.letsencrypt is not None
                and http.tls.letsencrypt.http is not None
            ):
                self._sockets.append(bind(http.tls.letsencrypt.http))
        except CannotListen as error:
            _refuse(str(error))

    def _read_key(self) -> None:
        tls = self._configuration.http.tls
        if tls is None or tls.letsencrypt is not None or self._context is not None:
            return
        try:
            self._context = ServerContext(tls)
        except TLSFault as error:
            _refuse(str(error))

    def _load(self) -> None:
        """
        Load what the configuration needs: who we become may be unable to read it, or an update may change it.
        """
        if isinstance(self._configuration.middleware, Gateway):
            import contentcache.gateway.role  # noqa: PLC0415
        tls = self._configuration.http.tls
        if tls is not None and tls.letsencrypt is not None:
            import contentcache.issuance  # noqa: F401, PLC0415

    def _serve(self, role: Role) -> None:
        served: list[Any] = [role.factory]
        debug = self._configuration.http.debug
        if debug is not None:
            site = _QuietSite(DebugApi(self._findings, self._meter, debug.prometheus).resource())
            served.append(site)
        if self._issuance is not None and len(served) < len(self._sockets):
            served.append(self._issuance.plain)
        sockets, self._sockets = self._sockets, []
        middleware = self._configuration.middleware
        # The gateway sends no files; and which certificate a host has is known to Twisted's own way only.
        fast = isinstance(middleware, Downstream) and middleware.fastpath and self._issuance is None
        self._ports = [
            serve(
                self._reactor,
                bound,
                each,
                fast=fast and each is role.factory,
                tls=self._context if each is role.factory else None,
            )
            for bound, each in zip(sockets, served, strict=True)
        ]

    def _say_hello(self, role: Role) -> None:
        for warning in self._warnings:
            self._log.warn("{warning}", warning=warning)
        http = self._configuration.http
        self._log.info(
            "Content Cache {version} listens on {address} ({scheme}), {introduction}",
            version=__version__,
            address=shown(http.addr),
            scheme="http" if http.tls is None else "https",
            introduction=role.introduction(),
        )

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

    def _look_for_lag(self) -> Callable[[], None]:
        due = self._reactor.seconds() + _LOOK_EVERY

        def look() -> None:
            nonlocal due
            now = self._reactor.seconds()
            self._meter.lagged(max(0.0, now - due))
            due = now + _LOOK_EVERY

        return look

    def _findings(self) -> Mapping[str, Finding]:
        if self._role is None:
            return {"daemon": Finding("fail", "not started")}
        findings = dict(self._role.findings())
        if self._issuance is not None:
            findings.update(self._issuance.findings())
        return findings

    def _reload(self) -> None:
        """
        ``SIGHUP``: read certificates anew. Broken ones change nothing.
        """
        readers: list[Any] = [*(self._role.reloading if self._role is not None else ())]
        if self._issuance is not None:
            readers.append(self._issuance)
        elif self._context is not None:
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
        role = self._role
        for port in self._ports:
            await _maybe(port.stopListening())
        for loop in self._loops:
            if loop.running:
                loop.stop()
        if self._issuance is not None:
            await self._issuance.stop()
        if role is None:
            return
        await self._drain(role)
        await role.stop()
        self._threads.stop()
        role.close()

    async def _drain(self, role: Role) -> None:
        factory = role.factory
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
