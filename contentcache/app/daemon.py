"""The daemon's life: start, sweep, watch, read certificates anew, drain, stop."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

from attrs import evolve
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from contentcache import __version__
from contentcache.aio.condition import sleep
from contentcache.aio.reactor import DaemonReactor
from contentcache.aio.threads import Threads, ThreadsUnavailableError, use_threads_for_names
from contentcache.app.cache_role import CacheRole
from contentcache.app.listening import ListenError, SocketPath, bind, format_address, serve, stop
from contentcache.app.process import free_descriptors
from contentcache.app.role import Role, StartupError
from contentcache.config.model import Address, Configuration, Downstream, Gateway
from contentcache.core.descriptors import Fitting, fit
from contentcache.server.debug_site import DebugSite, HealthCheck
from contentcache.server.factory import TURNED_AWAY
from contentcache.telemetry.metrics import Meter
from contentcache.tls.files import TLSConfigurationError
from contentcache.tls.hosts import HostContexts
from contentcache.tls.server import ServerContext
from contentcache.upstream.proxies import ProxyFault
from contentcache.wire.sendfile_pool import SendfilePool

if TYPE_CHECKING:
    from contentcache.app.issuance import Issuance

_LOOK_EVERY: Final = 0.5
_DRAIN_STEP: Final = 0.1
#: Seconds between two sets of keys for the session tickets of our own port.
_TICKET_KEYS_EVERY: Final = 12 * 3600.0
#: How many fast clients are sent files by threads at once.
_SENDFILE_THREADS: Final = max(2, min(8, len(os.sched_getaffinity(0))))


#: Host names that are looked up at once.
_NAMES: Final = 10


class Daemon(Service):
    """
    All that runs, as one service.

    What cannot be (a port that is taken, a root directory that another daemon has) is said in a sentence,
    and ends the process with status 1.

    With several workers, parent and children are daemons too: what they do otherwise is in methods of their
    own, which are named after what they do.
    """

    name = "contentcache"
    _log = Logger(namespace="contentcache")

    def __init__(
        self,
        configuration: Configuration,
        warnings: tuple[str, ...],
        environ: Mapping[str, str],
        reactor: DaemonReactor,
    ) -> None:
        self.configuration = configuration
        self._warnings = warnings
        self.environ = environ
        self.reactor = reactor
        self.meter = Meter()
        self.threads = Threads(reactor, configuration.storage.maxthreads, "disk")
        # Separate threads: where all of the others wait for a disk, files in memory are still sent.
        self._sendfile_threads = Threads(reactor, _SENDFILE_THREADS, "sendfile")
        self._name_threads = Threads(reactor, _NAMES, "name")
        self._front: list[socket.socket] = []
        self._paths: list[SocketPath] = []
        self._sockets: list[socket.socket] = []
        self.ports: list[Any] = []
        self._loops: list[LoopingCall] = []
        self.role: Role | None = None
        self.context: ServerContext | HostContexts | None = None
        self.issuance: Issuance | None = None

    # Start.

    def privilegedStartService(self) -> None:
        """Bind the addresses and read the key of TLS, while that is still allowed."""
        super().privilegedStartService()
        self._bind()
        self.read_certificate()
        self._load()

    def startService(self) -> None:
        """Become what the configuration says, and serve. No upstream is contacted for it."""
        super().startService()
        self._bind()
        self.read_certificate()
        fitting = self._fit_descriptors()
        try:
            role = self.build()
        except StartupError as error:
            exit_with(str(error))
        role.factory.most_turned_away = fitting.turned_away
        self.role = role
        self.build_issuance()
        self._start_threads()
        use_threads_for_names(self.reactor, self._name_threads)
        self.log_startup(role)
        role.start(self.repeat)
        self.repeat(_LOOK_EVERY, self._look_for_lag())
        self._serve(role)
        self.repeat(_TICKET_KEYS_EVERY, self._rotate_ticket_keys)
        if self.issuance is not None:
            self.start_issuance(self.issuance)
        signal.signal(signal.SIGHUP, lambda *_: self.reactor.callFromThread(self.reload))

    def _start_threads(self) -> None:
        started: list[Threads] = []
        try:
            for threads in (self.threads, self._sendfile_threads, self._name_threads):
                threads.start()
                started.append(threads)
        except ThreadsUnavailableError as error:
            for threads in started:
                threads.stop()
            exit_with(str(error))

    def _fit_descriptors(self) -> Fitting:
        """Lower the limits to what fits into the descriptors that this process may have."""
        middleware, free = self.configuration.middleware, free_descriptors()
        limits = middleware.limits
        fitting = fit(free, connections=limits.connections, fetches=limits.fetches, turned_away=TURNED_AWAY)
        if (fitting.connections, fitting.fetches) != (limits.connections, limits.fetches):
            self._log.warn(
                "limits lowered to fit descriptors",
                free=free,
                connections=fitting.connections,
                fetches=fitting.fetches,
                hint="raise the limit of open files (nofile) for more",
            )
            limits = evolve(limits, connections=fitting.connections, fetches=fitting.fetches)
            self.configuration = evolve(self.configuration, middleware=evolve(middleware, limits=limits))
        return fitting

    def build(self) -> Role:
        """
        What the daemon is.

        :raises StartupError: it cannot be that.
        """
        configuration, middleware = self.configuration, self.configuration.middleware
        if isinstance(middleware, Gateway):
            # Here, so that a cache does not load what a gateway needs.
            from contentcache.app.gateway_role import GatewayRole  # noqa: PLC0415

            return GatewayRole(
                configuration,
                middleware,
                self.environ,
                self.reactor,
                threads=self.threads,
                meter=self.meter,
            )
        return CacheRole(configuration, self.environ, self.reactor, self.threads, self.meter)

    def build_issuance(self) -> None:
        """Load the certificates from the ACME server's store, as the account whose files they are."""
        tls = self.configuration.http.tls
        if tls is None or tls.letsencrypt is None:
            return
        # Here, so that a daemon with certificate files loads nothing of ACME.
        from contentcache.acme.errors import CertificateStoreInUseError  # noqa: PLC0415
        from contentcache.app.issuance import Issuance  # noqa: PLC0415

        try:
            self.issuance = Issuance(
                tls,
                tls.letsencrypt,
                self.configuration.http.addr,
                self.environ,
                run=self.threads,
                reactor=self.reactor,
                meter=self.meter,
            )
        except (CertificateStoreInUseError, TLSConfigurationError, ProxyFault) as error:
            exit_with(str(error))
        self.context = self.issuance.contexts

    def start_issuance(self, issuance: Issuance) -> None:
        """Ask for certificates, now that whoever looks at the port finds us."""
        issuance.start()

    def _bind(self) -> None:
        if self._front or self.ports:
            return
        http = self.configuration.http
        try:
            self._front = self.bind_client_sockets(http.addr)
            if http.debug is not None:
                self._sockets.append(self._bound(http.debug.addr))
            if (
                http.tls is not None
                and http.tls.letsencrypt is not None
                and http.tls.letsencrypt.http is not None
            ):
                self._sockets.append(self._bound(http.tls.letsencrypt.http))
        except ListenError as error:
            exit_with(str(error))

    def bind_client_sockets(self, address: Address) -> list[socket.socket]:
        """The sockets to which clients come."""
        return [self._bound(address)]

    def _bound(self, address: Address) -> socket.socket:
        bound = bind(address)
        self.own(address)
        return bound

    def own(self, address: Address) -> None:
        """Take away the path of a socket that was bound here, if it has one, when the daemon stops."""
        path = SocketPath.of(address)
        if path is not None:
            self._paths.append(path)

    def read_certificate(self) -> None:
        """What is shown to clients, where files say it."""
        tls = self.configuration.http.tls
        if tls is None or tls.letsencrypt is not None or self.context is not None:
            return
        try:
            self.context = ServerContext(tls)
        except TLSConfigurationError as error:
            exit_with(str(error))

    def _load(self) -> None:
        """Load what the configuration needs: who we become may be unable to read it, or an update may change it."""
        if isinstance(self.configuration.middleware, Gateway):
            import contentcache.app.gateway_role  # noqa: PLC0415
        if self.configuration.auth is not None:
            import contentcache.auth.htpasswd  # noqa: PLC0415
            import contentcache.auth.tokens  # noqa: PLC0415
        tls = self.configuration.http.tls
        if tls is not None and tls.letsencrypt is not None:
            import contentcache.app.issuance  # noqa: F401, PLC0415

    def _serve(self, role: Role) -> None:
        front, self._front = self._front, []
        sockets, self._sockets = self._sockets, []
        served: list[Any] = []
        debug = self.configuration.http.debug
        if debug is not None:
            served.append(DebugSite(self.health, self.metrics, debug.prometheus, self.reactor))
        if self.issuance is not None and len(served) < len(sockets):
            served.append(self.issuance.plain)
        self.ports = [serve(self.reactor, bound, each) for bound, each in zip(sockets, served, strict=True)]
        self.serve_clients(front, role)

    def serve_clients(self, sockets: Sequence[socket.socket], role: Role) -> None:
        """Answer clients."""
        middleware = self.configuration.middleware
        # The gateway sends no files; and which certificate a host has is known to Twisted's own way only.
        fast = isinstance(middleware, Downstream) and middleware.fastpath
        fast = fast and not isinstance(self.context, HostContexts)
        pool = SendfilePool(self._sendfile_threads, _SENDFILE_THREADS)
        self.ports += [
            serve(self.reactor, bound, role.factory, fast=fast, tls=self.context, pool=pool)
            for bound in sockets
        ]

    async def metrics(self) -> bytes:
        """What was counted, in Prometheus' text format."""
        return self.meter.text()

    def log_startup(self, role: Role) -> None:
        """The first lines of the log."""
        for warning in self._warnings:
            self._log.warn("configuration warning", reason=warning)
        http = self.configuration.http
        self._log.info(
            "daemon ready",
            version=__version__,
            address=format_address(http.addr),
            scheme="http" if http.tls is None else "https",
            **role.startup_fields(),
        )

    # While it runs.

    def repeat(self, seconds: float, call: Callable[[], object]) -> None:
        """Call again and again, whatever becomes of each call, until the daemon stops."""

        def guarded() -> object:
            # A LoopingCall never calls again after one exception.
            try:
                result = call()
            except Exception:  # noqa: BLE001
                self._log.failure("periodic task failed", task=getattr(call, "__qualname__", None))
                return None
            return result

        loop = LoopingCall(guarded)
        loop.clock = cast("Any", self.reactor)
        self._loops.append(loop)
        loop.start(seconds, now=False)

    def _look_for_lag(self) -> Callable[[], None]:
        due = self.reactor.seconds() + _LOOK_EVERY

        def look() -> None:
            nonlocal due
            now = self.reactor.seconds()
            self.meter.lagged(max(0.0, now - due))
            due = now + _LOOK_EVERY

        return look

    def _rotate_ticket_keys(self) -> None:
        if self.context is not None:
            self.context.rotate_ticket_keys()

    async def health(self) -> Mapping[str, HealthCheck]:
        """How it goes."""
        return self.own_health()

    def own_health(self) -> Mapping[str, HealthCheck]:
        """How it goes in this process."""
        if self.role is None:
            return {"daemon": HealthCheck("fail", "not started")}
        health = dict(self.role.health())
        if self.issuance is not None:
            health.update(self.issuance.health())
        return health

    def reload(self) -> None:
        """``SIGHUP``: read certificates anew. Broken ones change nothing."""
        readers: list[Any] = [*(self.role.reloading if self.role is not None else ())]
        if self.issuance is not None:
            readers.append(self.issuance)
        elif self.context is not None:
            readers.append(self.context)
        for reader in readers:
            try:
                reader.reload()
            except TLSConfigurationError as error:
                self._log.error("certificates not reloaded, old ones stay in use", reason=error)
            else:
                self._log.info("certificates reloaded, shown to new connections")

    # Stop.

    def stopService(self) -> Deferred[None]:
        """Take no new connection, let transfers finish for ``http.draintimeout``, and put everything away."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        role = self.role
        for path in self._paths:
            path.remove()
        for port in self.ports:
            await stop(port)
        for loop in self._loops:
            if loop.running:
                loop.stop()
        if self.issuance is not None:
            await self.issuance.stop()
        if role is None:
            return
        await self.drain(role)
        await role.stop()
        self.threads.stop()
        self._sendfile_threads.stop()
        self._name_threads.stop()
        role.close()

    async def drain(self, role: Role) -> None:
        """Let what is under way finish, for as long as it may, and end the rest."""
        factory = role.factory
        factory.close_idle()
        until = self.reactor.seconds() + self.configuration.http.draintimeout
        if factory.busy and self.configuration.http.draintimeout > 0:
            self._log.info(
                "drain started", transfers=factory.busy, timeout=self.configuration.http.draintimeout
            )
        while factory.busy and self.reactor.seconds() < until:
            await sleep(self.reactor, _DRAIN_STEP)
        factory.cut()


class StartupExit(SystemExit, Exception):
    """
    The daemon cannot be, and why.

    In the background twistd tells whoever waits for it of an ``Exception`` only; for a ``SystemExit`` the
    process ends without a traceback.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.code = 1


def exit_with(sentence: str) -> NoReturn:
    """Say why there will be no daemon, and end."""
    sys.stderr.write(f"contentcache: {sentence}\n")
    raise StartupExit(sentence)
