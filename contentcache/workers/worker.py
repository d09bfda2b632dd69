"""
One worker: a process that serves clients from the store that the supervisor maintains.

The supervisor sends it all that it needs, through a pair of sockets. When the other end of that is closed,
however the supervisor ended, the worker ends at once.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TextIO, cast

from twisted.logger import Logger, globalLogBeginner
from twisted.python.failure import Failure

from contentcache.admin.recent_errors import RecentErrors
from contentcache.aio.reactor import DaemonReactor
from contentcache.aio.tasks import in_background
from contentcache.app.cache_role import CacheRole
from contentcache.app.daemon import Daemon
from contentcache.app.listening import stop
from contentcache.app.reloading import file_readers
from contentcache.app.role import Role, StartupExit
from contentcache.app.stopping import CutOff
from contentcache.app.systemd import without_notifier
from contentcache.config.loading import Loaded
from contentcache.config.model import Address, Configuration
from contentcache.core.digest import Digest
from contentcache.core.errors import DiskFailed
from contentcache.delivery.authorization import Revocation
from contentcache.delivery.other_workers import OtherWorkers
from contentcache.storage.filesystem import FilesystemStore
from contentcache.storage.interfaces import Reservation
from contentcache.storage.opening import Storage
from contentcache.telemetry.logging import log_observer
from contentcache.tls.files import TLSConfigurationError
from contentcache.tls.hosts import HostContexts
from contentcache.tls.server import ServerContext
from contentcache.workers import messages
from contentcache.workers.line_stream import LineStream
from contentcache.workers.metrics import collect
from contentcache.workers.owner_connection import SubscriberService
from contentcache.workers.owners import RemoteOwners
from contentcache.workers.remote_index import RemoteIndex
from contentcache.workers.rpc import RPCConnection, RPCError, connect
from contentcache.workers.worker_process import CONTROL, FRONT, INDEX, LOCK

_log = Logger(namespace="contentcache")


class RemoteRoom:
    """A :class:`contentcache.storage.interfaces.Room` in the supervisor, for the downloads of all workers."""

    def __init__(self, supervisor: RPCConnection) -> None:
        self._supervisor = supervisor
        self._unreleased: set[str] = set()

    async def reserve(self, wanted: Reservation) -> str | None:
        """Reserve room, or enlarge the reservation with the same key."""
        for key in tuple(self._unreleased):
            self.release(key)
        try:
            lacking: str | None = await self._supervisor.call(messages.Reserve(wanted))
        except RPCError as error:
            raise DiskFailed(f"the supervisor does not say whether there is room: {error}") from error
        return lacking

    def shrink(self, key: str, size: int, *, unlinked: bool) -> None:
        """Reserve no more than this. If the call fails, more than needed stays reserved."""
        shrinking = self._supervisor.call(messages.ShrinkReservation(key, size, unlinked))
        shrinking.addErrback(lambda failure: failure.trap(RPCError) and None)

    def release(self, key: str) -> None:
        """End a reservation. If the call fails, it is repeated with the next reservation."""
        self._unreleased.discard(key)

        def failed(failure: Failure) -> None:
            failure.trap(RPCError)
            self._unreleased.add(key)

        self._supervisor.call(messages.ReleaseReservation(key)).addErrback(failed)


class Worker(Daemon):
    """Worker ``number``; ``hello`` says the rest."""

    def __init__(
        self, number: int, hello: messages.Hello, supervisor: RPCConnection, reactor: DaemonReactor
    ) -> None:
        configuration: Configuration = pickle.loads(hello.configuration)  # noqa: S301  # only the supervisor sends it
        super().__init__(Loaded(configuration), without_notifier(os.environ), reactor, RecentErrors(number))
        self._number = number
        self._hello = hello
        self._supervisor = supervisor
        self._in_use: set[Digest] = set()
        self._caching: CacheRole | None = None
        self._subscriber_service: SubscriberService | None = None
        self._index: RemoteIndex | None = None

    # Start.

    def bind_client_sockets(self, address: Address) -> list[socket.socket]:  # noqa: ARG002  # the supervisor has bound it
        """The socket that the supervisor has bound for this worker."""
        return [socket.socket(fileno=FRONT)]

    def read_certificate(self) -> None:
        """The certificates that the supervisor has read while it was allowed to."""
        tls, certificates = self.configuration.http.tls, self._hello.certificates
        if tls is None or self.context is not None:
            return
        try:
            if certificates.identity is not None:
                self.context = ServerContext(tls, certificates.identity)
            else:
                self.context = HostContexts(tls, dict(certificates.hosts or {}))
                self.context.update({}, certificates.challenges or {})
        except TLSConfigurationError as error:
            raise StartupExit(str(error)) from error

    def build_issuance(self) -> None:
        """Nothing: the supervisor issues certificates."""

    def open_admin_socket(self) -> None:
        """Nothing: the supervisor answers the operator."""

    def build(self) -> Role:
        """The part of a cache that serves clients."""
        hello, configuration = self._hello, self.configuration
        store = FilesystemStore(configuration.storage.rootdirectory, shared=True)
        other_workers = OtherWorkers(
            secret=hello.secret,
            pseudonym=hello.pseudonym,
            owners=RemoteOwners(self._number, configuration.workers, self._supervisor, store, self.reactor),
            maintains_store=False,
            room=RemoteRoom(self._supervisor),
            on_use=self._notify_use,
            on_review=self._review_use,
            on_revoked=self._supervisor.send,
            on_disk_fault=lambda fault: self._supervisor.send(messages.DiskFault(fault)),
        )
        self._index = RemoteIndex(socket.socket(fileno=INDEX))
        self._caching = CacheRole(
            self.live,
            self.environ,
            self.reactor,
            self.threads,
            self.meter,
            other_workers=other_workers,
            storage=Storage(store, self._index),
        )
        services = self._caching.services
        registries = {registry.upstream.origin: registry for registry in services.upstreams.registries}
        self._subscriber_service = SubscriberService(
            services.blob_service.downloads,
            services.authorization.request_key,
            registries.__getitem__,
            self.threads,
        )
        return self._caching

    def log_startup(self, role: Role) -> None:
        """Nothing: the supervisor has logged it."""

    def _notify_use(self, digest: Digest) -> None:
        if digest not in self._in_use:
            self._in_use.add(digest)
            self._supervisor.send(messages.InUse(digest))

    def _review_use(self, in_use: Callable[[Digest], bool]) -> None:
        """Notify the supervisor of all blobs that are not in use any more, at once."""
        unused = [digest for digest in self._in_use if not in_use(digest)]
        self._in_use.difference_update(unused)
        if unused:
            self._supervisor.send(messages.NotInUse(unused))
        if not self._supervisor.is_backed_up:  # the next message has all that this one would have
            self._supervisor.send(messages.Metrics(collect(self.meter.registry)))
            self._send_repository_pulls()

    def _send_repository_pulls(self) -> None:
        """Report pulls to the supervisor. If the call fails, they are lost."""
        counts = self.meter.repository_pulls.drain()
        if counts:
            pulled = messages.PulledRepositories([(*key, count) for key, count in counts.items()])
            self._supervisor.call(pulled).addErrback(lambda failure: failure.trap(RPCError) and None)

    # Messages and calls of the supervisor.

    def receive(self, message: Any) -> Any:
        """Do what the supervisor requests."""
        match message:
            case messages.AcceptSubscriber():
                return self._accept_subscriber()
            case messages.FlushPulls():
                return self._flush()
            case messages.GetMetrics() | messages.GetFindings() | messages.GetStatus():
                return self._report(message)
            case messages.Drain():
                return self._drain()
            case messages.Stop():
                in_background(self._end())
            case messages.Reload():
                in_background(self._use(message))
            case messages.Certificates():
                self._show(message)
            case _ if self._caching is not None:
                self._receive_change(message, self._caching)
        return None

    def _report(self, message: Any) -> Any:
        match message:
            case messages.GetMetrics():
                return collect(self.meter.registry)
            case messages.GetFindings():
                return self.own_health()
            case _:
                return self.process_status()

    def _receive_change(self, message: Any, caching: CacheRole) -> None:
        """Something in the store or in what the origins allow has changed."""
        services = caching.services
        match message:
            case messages.BlobEvicted(digest=digest):
                services.blob_service.hot_blobs.drop(digest)
                if self._index is not None:
                    self._index.uncache(digest)
            case messages.LinkDenied(link=link):
                # The question was earlier, at an unknown time: a question from now on is not affected.
                services.links.apply_denial(link, asked=services.authorization.request_time())
            case Revocation():
                services.authorization.apply_revocation(message)
            case messages.DiskFault(fault=fault):
                services.blob_service.health.fault = fault
            case messages.IndexLost():
                services.blob_service.lost_index()

    def _accept_subscriber(self) -> bool:
        descriptor = self._supervisor.receive_descriptor()
        if descriptor is None or self._subscriber_service is None:
            return False
        connect(self.reactor, descriptor, self._subscriber_service.connection())
        return True

    async def _flush(self) -> None:
        if self._caching is not None:
            await self._caching.flush()

    async def _use(self, message: messages.Reload) -> None:
        """The supervisor has read every file: one that has become unreadable since keeps its old content."""
        configuration: Configuration = pickle.loads(message.configuration)  # noqa: S301  # only the supervisor sends it
        tls, identity = configuration.http.tls, message.certificates.identity
        readers = file_readers(self.role, None, tls)
        if tls is not None and isinstance(self.context, ServerContext):
            readers.append(partial(self.context.read, tls, identity))
        elif tls is not None and self.context is not None:
            readers.append(partial(self.context.read, tls))
        for reader in readers:
            try:
                (await self.threads(reader))()
            except TLSConfigurationError as error:
                _log.error("certificates not reloaded, old ones stay in use", reason=error)
        self.use_configuration(configuration)
        self._show(message.certificates)

    def _show(self, certificates: messages.Certificates) -> None:
        if isinstance(self.context, HostContexts):
            self.context.update(certificates.hosts or {}, certificates.challenges or {})

    # Stop.

    async def _drain(self) -> CutOff:
        """Refuse new connections; downloads for other workers go on."""
        for port in self.ports:
            await stop(port)
        cut_off = CutOff() if self.role is None else await self.drain(self.role)
        self._send_repository_pulls()
        return cut_off

    async def _end(self) -> None:
        try:
            await self.stopService()
        finally:
            self.reactor.stop()


def prepare(number: int, reactor: DaemonReactor) -> None:
    """Make this process worker ``number`` as soon as the reactor runs."""
    _ignore_signals()
    for descriptor in (CONTROL, INDEX, FRONT, LOCK):
        with suppress(OSError):
            os.set_inheritable(descriptor, False)
    worker: Worker | None = None

    def receive(message: Any) -> Any:
        nonlocal worker
        if worker is not None:
            return worker.receive(message)
        if isinstance(message, messages.Hello):
            worker = _start(number, message, supervisor, reactor)
        return None

    supervisor = RPCConnection(receive, lambda: os._exit(1))
    reactor.callWhenRunning(_ignore_signals)
    reactor.callWhenRunning(connect, reactor, CONTROL, supervisor)


def _start(number: int, hello: messages.Hello, supervisor: RPCConnection, reactor: DaemonReactor) -> Worker:
    worker = Worker(number, hello, supervisor, reactor)
    stream = cast("TextIO", LineStream(sys.stdout.fileno()))
    settings = worker.live.derive(lambda configuration: configuration.log)
    journal = log_observer(stream, settings, number, note=worker.errors)
    globalLogBeginner.beginLoggingTo([journal], redirectStandardIO=False)
    try:
        worker.privilegedStartService()
        worker.startService()
    except Exception as error:  # noqa: BLE001  # a worker that cannot serve must end, so that nobody waits for it
        if not isinstance(error, StartupExit):
            _log.failure("worker not started", worker=number)
        supervisor.send(messages.StartFailed(str(error.args[0] if error.args else error)))
        reactor.callLater(0, reactor.stop)
        return worker
    _ignore_signals()
    supervisor.send(messages.Ready())
    return worker


def _ignore_signals() -> None:
    """Ignore signals that are sent to all processes of the daemon: the supervisor sends messages instead."""
    # Not SIG_IGN, which programs that this process starts would inherit.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, lambda *_: None)
