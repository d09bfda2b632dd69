"""
The process that starts the workers: it has the lock, the index and the addresses, maintains the store, and answers
the operator's requests. It serves no clients.
"""

from __future__ import annotations

import pickle
import secrets
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

from attrs import evolve
from prometheus_client import CollectorRegistry

from contentcache.admin.recent_errors import RecentErrors
from contentcache.admin.status import ProcessStatus, Sample, Workers
from contentcache.admin.status import merge as merge_statuses
from contentcache.aio.reactor import DaemonReactor
from contentcache.aio.tasks import in_background
from contentcache.app.cache_role import CacheRole
from contentcache.app.daemon import Daemon
from contentcache.app.listening import bind_shared
from contentcache.app.role import Role
from contentcache.app.stopping import CutOff, stop_with
from contentcache.app.systemd import without_notifier
from contentcache.config.loading import Loaded
from contentcache.config.model import Address, Configuration
from contentcache.config.workers import worker_share
from contentcache.core.via import FAMILY
from contentcache.delivery.other_workers import OtherWorkers
from contentcache.server.debug_site import HealthCheck
from contentcache.storage.interfaces import Link, Reservation
from contentcache.tls.hosts import HostContexts
from contentcache.tls.server import ServerContext
from contentcache.workers import messages
from contentcache.workers.metrics import Family, as_registry, collect, merge, worst_findings
from contentcache.workers.remote_index import IndexServer
from contentcache.workers.worker_pool import WorkerPool

if TYPE_CHECKING:
    from contentcache.app.issuance import Issuance


#: Seconds after ``http.draintimeout`` when workers that still drain are ended.
_DRAIN_MARGIN: Final = 5.0


class Supervisor(Daemon):
    """
    A daemon of several processes. ``output()`` gets what workers write to the log, ``None`` where they have this
    process's standard output.
    """

    def __init__(
        self,
        loaded: Loaded,
        environ: Mapping[str, str],
        reactor: DaemonReactor,
        *,
        output: Callable[[], Callable[[str], None] | None],
        errors: RecentErrors | None = None,
    ) -> None:
        super().__init__(loaded, environ, reactor, errors)
        self._output = output
        self._secret = secrets.token_bytes(64)
        self._pseudonym = FAMILY + secrets.token_hex(4)
        self._caching: CacheRole | None = None
        self._workers: WorkerPool | None = None

    # Start.

    def bind_client_sockets(self, address: Address) -> list[socket.socket]:
        """Bind a socket for each worker, which is passed on to its successors."""
        sockets = bind_shared(address, self.configuration.workers)
        self.own(address)
        return sockets

    def build(self) -> Role:
        """
        Build a whole cache: it maintains the store, and shows that the configuration works before a worker
        starts.
        """
        other_workers = OtherWorkers(
            secret=self._secret,
            pseudonym=self._pseudonym,
            serves_clients=False,
            in_use=lambda digest: self._workers is not None and self._workers.uses(digest),
            on_evicted=lambda digest: self._send(messages.BlobEvicted(digest)),
            on_index_lost=lambda: self._send(messages.IndexLost()),
        )
        self._caching = CacheRole(
            self.live,
            self.environ,
            self.reactor,
            self.threads,
            self.meter,
            samples=self.samples,
            other_workers=other_workers,
        )
        return self._caching

    def serve_clients(self, sockets: Sequence[socket.socket], role: Role) -> None:  # noqa: ARG002  # workers serve
        """Start the workers."""
        caching = self._caching
        assert caching is not None  # noqa: S101  # build() was called
        storage = caching.services.storage
        index_server = IndexServer(storage.index, self._link_denied)
        self._workers = WorkerPool(
            self.reactor,
            hello=self._hello,
            receive=self._receive,
            ended=self._worker_ended,
            serve_index=index_server.serve,
            output=self._output(),
            lock=lambda: None if storage.lock is None else storage.lock.descriptor,
            environ=without_notifier(self.environ),
        )
        if isinstance(self.context, HostContexts):
            self.context.changed = self._send_certificates
        self._workers.start(sockets, self._cannot_start)

    def _cannot_start(self, reason: str) -> None:
        sentence = f"no worker can serve: {reason}"
        self._log.error("daemon cannot start", reason=sentence)
        self.notifier.tell_stopping()
        # Perhaps the reactor does not run yet.
        self.reactor.callLater(0, stop_with, sentence, self.reactor)

    def start_issuance(self, issuance: Issuance) -> None:
        """Request certificates once there are workers that answer challenges."""
        in_background(self._start_issuance(issuance))

    async def wait_until_serving(self) -> None:
        """Return when all workers serve, or cannot in time."""
        if self._workers is not None:
            await self._workers.wait_until_started()

    async def _start_issuance(self, issuance: Issuance) -> None:
        await self.wait_until_serving()
        if self.running:
            issuance.start()

    def _hello(self) -> messages.Hello:
        return messages.Hello(
            self._worker_configuration(), self._secret, self._pseudonym, self._certificates()
        )

    def _worker_configuration(self) -> bytes:
        # Only this process has the other end of the socket pair: so the worker may unpickle it.
        return pickle.dumps(worker_share(self.configuration))

    # Calls of workers.

    async def _receive(self, number: int, message: Any) -> Any:
        if self._caching is None:
            return None
        evictor = self._caching.services.evictor
        match message:
            case messages.Reserve(reservation=reservation):
                return await self._reserve(evolve(reservation, key=f"{number}:{reservation.key}"))
            case messages.ShrinkReservation(key=key, size=size, unlinked=unlinked):
                evictor.shrink(f"{number}:{key}", size, unlinked=unlinked)
            case messages.PulledRepositories(counts=counts):
                self.meter.repository_pulls.add_all(counts)
            case messages.ReleaseReservation(key=key):
                evictor.release(f"{number}:{key}")
        return None

    async def _reserve(self, reservation: Reservation) -> str | None:
        if self._caching is None or self._workers is None:
            return "the daemon is about to start or to end"
        evictor = self._caching.services.evictor
        if await evictor.reserve(reservation) is None:
            return None
        # A blob that was pulled in the last seconds counts as in use until its pull is in the index.
        await self._workers.call(messages.FlushPulls())
        return await evictor.reserve(reservation)

    def _worker_ended(self, number: int) -> None:
        if self._caching is not None:
            self._caching.services.evictor.release_all(f"{number}:")

    def _link_denied(self, link: Link, number: int) -> None:
        """In a thread: notify the other workers."""
        self.reactor.callFromThread(self._send, messages.LinkDenied(link), except_to=number)

    def _send(self, message: object, *, except_to: int | None = None) -> None:
        if self._workers is not None:
            self._workers.send(message, except_to=except_to)

    # Requests of the operator.

    async def metrics(self) -> CollectorRegistry:
        """The metrics of all processes together, also of those that have ended."""
        return as_registry(await self._families())

    async def samples(self) -> Iterable[Sample]:
        return [tuple(sample) for *_, samples in await self._families() for sample in samples]

    async def _families(self) -> Sequence[Family]:
        workers = await self._workers.metrics() if self._workers is not None else []
        return merge([collect(await self.meter.refreshed()), *workers])

    async def process_status(self) -> ProcessStatus:
        """What all workers know, and the errors of this process."""
        own = ProcessStatus(errors=self.errors.read())
        if self._workers is None:
            return own
        return merge_statuses([own, *(await self._workers.call(messages.GetStatus())).values()])

    @property
    def workers_serving(self) -> Workers:
        """How many workers serve clients."""
        serving, configured = (
            (0, self.configuration.workers) if self._workers is None else self._workers.health
        )
        return Workers(serving, configured)

    async def health(self) -> Mapping[str, HealthCheck]:
        """The health checks of all processes."""
        if self._workers is None:
            return self.own_health()
        own = dict(self.own_health())
        workers = await self._workers.call(messages.GetFindings())
        serving, all_workers = self._workers.health
        state: Literal["ok", "warn", "fail"] = (
            "ok" if serving == all_workers else "warn" if serving else "fail"
        )
        own["workers"] = HealthCheck(state, f"{serving} of {all_workers} serve")
        return worst_findings([own, *workers.values()])

    # Certificates.

    def use_configuration(self, configuration: Configuration) -> None:
        """After every file has been read here, so that a broken one reaches no worker: in all workers too."""
        super().use_configuration(configuration)
        self._send(messages.Reload(self._worker_configuration(), self._certificates()))

    def _send_certificates(self) -> None:
        self._send(self._certificates())

    def _certificates(self) -> messages.Certificates:
        match self.context:
            case ServerContext() as context:
                return messages.Certificates(context.identity)
            case HostContexts() as contexts:
                return messages.Certificates(None, dict(contexts.identities), dict(contexts.challenges))
            case _:
                return messages.Certificates()

    # Stop.

    async def drain(self, role: Role) -> CutOff:  # noqa: ARG002  # no client is served here
        """Let all workers drain before one ends: it may run downloads for another one's clients."""
        cut_off = CutOff()
        if self._workers is not None:
            cut_off = await self._workers.drain(self.configuration.http.draintimeout + _DRAIN_MARGIN)
            await self._workers.metrics()  # they stay when the workers have ended
            await self._workers.stop()
        return cut_off
