"""The daemon: start, health checks, reload, drain, stop."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from attrs import evolve
from prometheus_client import CollectorRegistry
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from contentcache import __version__
from contentcache.admin.api import Operations
from contentcache.admin.recent_errors import RecentErrors
from contentcache.admin.status import ProcessStatus, ReloadStatus, Sample, Status, Workers
from contentcache.aio.reactor import DaemonReactor
from contentcache.aio.tasks import PeriodicTasks, in_background
from contentcache.aio.threads import ThreadsUnavailableError
from contentcache.app.building import build_issuance, build_role, context_of_files, load_modules
from contentcache.app.gauges import lag_probe, watch_daemon
from contentcache.app.listening import ListenError, SocketPath, bind, format_address, serve, stop
from contentcache.app.operator_access import OperatorAccess
from contentcache.app.process import fit_descriptors, free_descriptors
from contentcache.app.reloading import ConfigurationReload, file_readers
from contentcache.app.reporting import StatusReporter, certificates_of
from contentcache.app.role import Role, StartupError, exit_with
from contentcache.app.stopping import CutOff, StopLog, drain
from contentcache.app.systemd import ServiceNotifier
from contentcache.app.thread_pools import SENDFILE_THREADS, ThreadPools
from contentcache.config.loading import Loaded
from contentcache.config.model import Address, Configuration, Downstream, Gateway
from contentcache.core.live import Live
from contentcache.server.debug_site import HealthCheck
from contentcache.telemetry.metrics import Meter
from contentcache.tls.hosts import HostContexts
from contentcache.tls.server import ServerContext
from contentcache.wire.sendfile_pool import SendfilePool

if TYPE_CHECKING:
    from contentcache.app.issuance import Issuance

_LAG_INTERVAL: Final = 0.5
#: Seconds until the keys of TLS session tickets are replaced.
_TICKET_KEYS_INTERVAL: Final = 12 * 3600.0


class Daemon(Service):
    """
    The whole daemon as one service.

    Where it cannot start (a port in use, a root directory in use by another daemon), it prints a sentence and
    exits with status 1.

    With several workers, the supervisor and the workers are daemons too, and override the methods in which
    they differ.
    """

    name = "contentcache"
    _log = Logger(namespace="contentcache")

    def __init__(
        self,
        loaded: Loaded,
        environ: Mapping[str, str],
        reactor: DaemonReactor,
        errors: RecentErrors | None = None,
    ) -> None:
        configuration = loaded.configuration
        self.live = Live(configuration)
        self._warnings = loaded.warnings
        self._free_descriptors = 0
        self._most_turned_away = 0
        self.environ = environ
        self.reactor = reactor
        self.meter = Meter("gateway" if isinstance(configuration.middleware, Gateway) else "cache")
        self._pools = ThreadPools(reactor, configuration.storage.maxthreads)
        self.threads = self._pools.disk
        self._front: list[socket.socket] = []
        self._paths: list[SocketPath] = []
        self._sockets: list[socket.socket] = []
        self.ports: list[Any] = []
        self._periodic = PeriodicTasks(reactor)
        self.role: Role | None = None
        self.context: ServerContext | HostContexts | None = None
        self.issuance: Issuance | None = None
        self.errors = errors or RecentErrors()
        self.notifier = ServiceNotifier(environ, reactor)
        self.reporter = StatusReporter(configuration)
        #: Of a process that says of itself that it has started.
        self.stop_log: StopLog | None = None
        self._access = OperatorAccess(
            configuration, Operations(self.status, self.health, self.reload), reactor, self.threads
        )
        self._reload = ConfigurationReload(
            loaded,
            environ,
            readers=lambda now: file_readers(self.role, self.issuance or self.context, now.http.tls),
            use=self.use_configuration,
            run=self.threads,
            meter=self.meter,
            wall=time.time,
        )

    @property
    def configuration(self) -> Configuration:
        """The configuration as it is now."""
        return self.live.now

    def privilegedStartService(self) -> None:
        """Bind the addresses and read the key of TLS, while that is still allowed."""
        super().privilegedStartService()
        self._bind()
        self.read_certificate()
        load_modules(self.configuration)

    def startService(self) -> None:
        """Build what is configured, and serve. No upstream is contacted."""
        super().startService()
        self._bind()
        self.read_certificate()
        self._free_descriptors = free_descriptors()
        self.use_configuration(self.configuration)
        try:
            self.role = role = self.build()
        except StartupError as error:
            exit_with(str(error))
        role.factory.most_turned_away = self._most_turned_away
        self.build_issuance()
        try:
            self._pools.start()
        except ThreadsUnavailableError as error:
            exit_with(str(error))
        self.log_startup(role)
        role.start(self._periodic.start)
        self._periodic.start(_LAG_INTERVAL, lag_probe(self.meter, self.reactor, _LAG_INTERVAL))
        self._serve(role)
        self._periodic.start(_TICKET_KEYS_INTERVAL, self._rotate_ticket_keys)
        if self.issuance is not None:
            self.start_issuance(self.issuance)
        self.open_admin_socket()
        self.notifier.start(self.wait_until_serving())
        signal.signal(signal.SIGHUP, lambda *_: self.reactor.callFromThread(self._reload_in_background))

    def build(self) -> Role:
        """
        Build the role.

        :raises StartupError: it cannot be built.
        """
        return build_role(self.live, self.environ, self.reactor, threads=self.threads, meter=self.meter)

    def build_issuance(self) -> None:
        """Load the certificates from the ACME server's store, as the account whose files they are."""
        self.issuance = build_issuance(
            self.configuration.http, self.environ, run=self.threads, reactor=self.reactor, meter=self.meter
        )
        if self.issuance is not None:
            self.context = self.issuance.contexts

    def start_issuance(self, issuance: Issuance) -> None:
        """Request certificates, now that the ports are open for the challenges."""
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
        """Bind the sockets for clients."""
        return [self._bound(address)]

    def _bound(self, address: Address) -> socket.socket:
        bound = bind(address)
        self.own(address)
        return bound

    def own(self, address: Address) -> None:
        """Delete the path of a socket that was bound here, if it has one, when the daemon stops."""
        path = SocketPath.of(address)
        if path is not None:
            self._paths.append(path)

    def read_certificate(self) -> None:
        """Read the certificate files, if they are configured."""
        self.context = self.context or context_of_files(self.configuration.http.tls)

    def _serve(self, role: Role) -> None:
        front, self._front = self._front, []
        sockets, self._sockets = self._sockets, []
        served: list[Any] = []
        debug = self.configuration.http.debug
        if debug is not None:
            served.append(self._access.debug_server(debug, self.metrics))
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
        pool = SendfilePool(self._pools.sendfile, SENDFILE_THREADS)
        self.ports += [
            serve(self.reactor, bound, role.factory, fast=fast, tls=self.context, pool=pool)
            for bound in sockets
        ]

    async def wait_until_serving(self) -> None:
        """Return when clients are served."""

    def open_admin_socket(self) -> None:
        """Listen at the admin socket, as the account that the daemon has now."""
        self._access.open_socket()

    async def status(self) -> Status:
        """The status document."""
        samples = list(await self.samples())
        return await self.reporter.report(
            self.role,
            samples,
            process=await self.process_status(),
            health=await self.health(),
            workers=self.workers_serving,
            certificates=certificates_of(self.context, self.issuance),
        )

    async def samples(self) -> Iterable[Sample]:
        """The samples of the metrics of all processes."""
        await self.meter.refreshed()
        return self.meter.samples()

    async def process_status(self) -> ProcessStatus:
        """What the processes that serve clients know."""
        own = self.role.process_status() if self.role is not None else ProcessStatus()
        return evolve(own, errors=self.errors.read())

    @property
    def workers_serving(self) -> Workers:
        """How many processes serve clients."""
        return Workers(1, 1)

    async def metrics(self) -> CollectorRegistry:
        """The metrics of all processes of this daemon."""
        return await self.meter.refreshed()

    def log_startup(self, role: Role) -> None:
        """Log the warnings of the configuration, and that the daemon is ready."""
        watch_daemon(self.meter, time.time(), lambda: certificates_of(self.context, None))
        for warning in self._warnings:
            self._log.warn("configuration warning", reason=warning)
        http = self.configuration.http
        self._log.info(
            "daemon listens on",
            address=format_address(http.addr),
            scheme="http" if http.tls is None else "https",
            version=__version__,
            **role.startup_fields(),
            workers=self.configuration.workers,
        )
        self.stop_log = StopLog(self.reactor)

    def _rotate_ticket_keys(self) -> None:
        if self.context is not None:
            self.context.rotate_ticket_keys()

    async def health(self) -> Mapping[str, HealthCheck]:
        """Run the health checks."""
        return self.own_health()

    def own_health(self) -> Mapping[str, HealthCheck]:
        """Run the health checks of this process."""
        health = (
            {"daemon": HealthCheck("fail", "not started")} if self.role is None else dict(self.role.health())
        )
        if self.issuance is not None:
            health.update(self.issuance.health())
        return health

    async def reload(self) -> ReloadStatus:
        """``SIGHUP``: read the configuration again, and every file that it names. A fault changes nothing."""
        with self.notifier.reloading():
            self.reporter.last_reload = await self._reload.run()
        return self.reporter.last_reload

    def _reload_in_background(self) -> None:
        if self.running:
            in_background(self.reload())

    def use_configuration(self, configuration: Configuration) -> None:
        """Let every part of this process have the configuration, as far as its descriptors allow."""
        fitted, fitting = fit_descriptors(configuration, self._free_descriptors)
        self.live.replace(fitted)
        self._most_turned_away = fitting.turned_away
        if self.role is not None:
            self.role.factory.most_turned_away = fitting.turned_away

    def stopService(self) -> Deferred[None]:
        """Refuse new connections, let transfers finish for ``http.draintimeout``, and stop everything."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        role = self.role
        self.notifier.tell_stopping()
        if self.stop_log is not None:
            self.stop_log.stopping()
        for path in self._paths:
            path.remove()
        for port in self.ports:
            await stop(port)
        self._access.close()
        self._periodic.stop()
        if self.issuance is not None:
            await self.issuance.stop()
        if role is None:
            return
        cut_off = await self.drain(role)
        await role.stop()
        self._pools.stop()
        role.close()
        if self.stop_log is not None:
            self.stop_log.stopped(cut_off)

    async def drain(self, role: Role) -> CutOff:
        """Let transfers finish within the timeout, and end the rest."""
        return await drain(role, self.reactor, self.configuration.http.draintimeout)
