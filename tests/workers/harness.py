"""Two workers over one store, connected in memory: one runs all downloads, the clients are at the other."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock

from contentcache.config.model import Upstream
from contentcache.core.credentials import Credential, Subject
from contentcache.core.digest import Digest
from contentcache.delivery.other_workers import DecisionRecorder, OtherWorkers
from contentcache.delivery.shared_download import DownloadKey, SharedDownload
from contentcache.storage.filesystem import FilesystemStore
from contentcache.workers.owner_connection import SubscriberService
from contentcache.workers.remote_download import RemoteDownload
from contentcache.workers.rpc import ConnectionClosedError, RPCConnection
from tests.delivery.in_memory import InMemoryCache
from tests.storage.faults import FaultyStore


class Delivery:
    """Delivers what is sent, in order, and nothing while something else is received."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._busy = False

    def add(self, delivery: Callable[[], None]) -> None:
        """Deliver this after what came before it."""
        self._waiting.append(delivery)
        if not self._busy:
            self._deliver()

    def hold(self) -> Callable[[], None]:
        """Deliver nothing, as where a process is stopped, until what this answers is called."""
        self._busy = True
        return self._deliver

    def _deliver(self) -> None:
        self._busy = True
        try:
            while self._waiting:
                self._waiting.popleft()()
        finally:
            self._busy = False


class ConnectionEnd:
    """One end of a connection in memory: as much of a transport as an RPC connection uses."""

    disconnecting = False

    def __init__(self, delivery: Delivery, rpc: RPCConnection) -> None:
        self._delivery = delivery
        self._rpc = rpc
        self._is_open = True
        self.reactor = Clock()
        self.other: ConnectionEnd
        self.sent: list[bytes] = []

    def registerProducer(self, _producer: object, _streaming: bool) -> None:
        """Nothing is ever too much (``ITransport``)."""

    def unregisterProducer(self) -> None:
        """The same."""

    def write(self, data: bytes) -> None:
        """Send bytes (``ITransport``)."""
        self.sent.append(data)
        self._delivery.add(lambda: self.other.deliver(data))

    def sendFileDescriptor(self, descriptor: int) -> None:
        """Send a file (``IUNIXTransport``)."""
        copy = os.dup(descriptor)
        self._delivery.add(lambda: self.other.receive_file(copy))

    def loseConnection(self) -> None:
        """Close (``ITransport``)."""
        self._delivery.add(self.cut)

    def abortConnection(self) -> None:
        """Close at once (``ITCPTransport``)."""
        self.cut()

    def deliver(self, data: bytes) -> None:
        """Receive what the other end has sent."""
        if self._is_open:
            self._rpc.dataReceived(data)

    def receive_file(self, descriptor: int) -> None:
        """Receive a file that the other end has sent."""
        if self._is_open:
            self._rpc.fileDescriptorReceived(descriptor)
        else:
            os.close(descriptor)

    def cut(self) -> None:
        """Close both ends."""
        for end in (self, self.other):
            if end._is_open:
                end._is_open = False
                end._rpc.connectionLost()


def connect_in_memory(delivery: Delivery, one: RPCConnection, other: RPCConnection) -> ConnectionEnd:
    """Connect two RPC connections; returns the end of the first one."""
    ends = ConnectionEnd(delivery, one), ConnectionEnd(delivery, other)
    ends[0].other, ends[1].other = ends[1], ends[0]
    one.makeConnection(ends[0])
    other.makeConnection(ends[1])
    return ends[0]


class OwnerOfAll:
    """The other worker, which owns all digests (``Owners``). No connection is made while ``unreachable``."""

    def __init__(self, cache: TwoWorkers) -> None:
        self._cache = cache
        self.delivery = Delivery()
        self.connections: list[ConnectionEnd] = []
        self.unreachable = False

    def is_own(self, _digest: Digest) -> bool:
        """The worker of the clients owns nothing."""
        return False

    def join(
        self, key: DownloadKey, recorder: DecisionRecorder, *, in_place: bool, total: int | None
    ) -> SharedDownload:
        """The owner's download."""
        return RemoteDownload(
            key,
            recorder,
            in_place=in_place,
            total=total,
            connect_owner=self._connect,
            open_file=self._cache.files.from_descriptor,
            clock=self._cache.clock,
        )

    async def store(self, key: DownloadKey, content: bytes) -> None:
        """Let the owner store it."""
        await self._cache.owner.downloads.store(key, content)

    async def _connect(self, _digest: Digest, rpc: RPCConnection) -> None:
        if self.unreachable:
            raise ConnectionClosedError("it is unreachable")
        service = self._cache.subscriber_service
        self.connections.append(connect_in_memory(self.delivery, rpc, service.connection()))


class TwoWorkers(InMemoryCache):
    """A cache whose ``blob_service`` is that of the worker with the clients; ``owner`` is that of the other one."""

    def __init__(self, *upstreams: Upstream, folder: Path, **options: Any) -> None:
        self.files = FilesystemStore(str(folder), shared=True)
        store = options.get("store")
        if isinstance(store, FaultyStore):
            store.stands_for(self.files)
        super().__init__(*upstreams, **{"store": self.files, **options})
        self.owner = self.blob_service
        self.subscriber_service = SubscriberService(
            self.owner.downloads, self.authorization.request_key, self._registry_of, self._run
        )
        self.owners = OwnerOfAll(self)
        meter_of_owner = self.meter
        self.furnish(OtherWorkers(owners=self.owners), **self._options)
        self.meter = meter_of_owner  # downloads are counted there

    @property
    def running_downloads(self) -> int:
        """How many downloads are running."""
        return self.owner.downloads.running

    def _registry_of(self, origin: str) -> Any:
        return next(registry for registry in self.registries if registry.upstream.origin == origin)


class FakeRegistry:
    """As much of a registry as a request has."""

    upstream = Upstream("https://one.example", ("https://one.example",))

    def subject(self, repository: str | None, credential: Credential) -> Subject:
        """As the real one."""
        return Subject.of(b"", self.upstream.origin, repository, credential)
