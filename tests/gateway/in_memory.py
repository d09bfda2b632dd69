"""A gateway in memory: real channels and a real router, and a registry behind that a test plays line by line."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from attrs import define, field
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectError, ConnectionDone, ConnectionLost
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from twisted.web.http_headers import Headers
from twisted.web.resource import NoResource, Resource

from contentcache.aio.threads import at_once
from contentcache.app.gateway_assembly import Backends, GatewayContext, make_server
from contentcache.app.role import Platform
from contentcache.config.model import Address, Configuration, Gateway, Http, Limits
from contentcache.core.credentials import Credential, Subject
from contentcache.core.errors import CacheError
from contentcache.core.live import Live
from contentcache.gateway.blob_authorization import TargetAnswer
from contentcache.gateway.connection_pool import ConnectionPool
from contentcache.gateway.directory import Cache
from contentcache.gateway.keys import KeyFiles
from contentcache.gateway.router import CACertificate
from contentcache.jose.blob_tokens import SigningKey
from contentcache.server.access_log import AccessLog, AccessLogEntry
from contentcache.server.factory import ServerFactory
from contentcache.telemetry.metrics import Meter
from contentcache.upstream.agent import UpstreamTransport
from contentcache.upstream.answers import Answer
from tests.registry.harness import Client, FakeResponse, Reply, request

REGISTRY = "http://registry.internal:5000"
PUBLIC = "https://registry.example.com"
CACHE = "https://cache.example.com"
NOW = 1e9
STALL = 30.0
WRITE = 900.0

__all__ = ["CACHE", "NOW", "PUBLIC", "REGISTRY", "STALL", "WRITE", "Client", "GatewayTestCase", "request"]


class RegistryEnd:
    """One connection of the gateway to the registry, from the registry's side."""

    def __init__(self, connection: Any) -> None:
        self.transport: Any = StringTransport(lenient=True)
        self.connection = connection
        connection.makeConnection(self.transport)

    @property
    def heard(self) -> bytes:
        """All that the gateway has sent since the last call."""
        data: bytes = self.transport.value()
        self.transport.clear()
        return data

    def head(self) -> tuple[str, dict[str, str], bytes]:
        """The request's line, its fields by names in lower case, and what follows."""
        head, blank, rest = self.heard.partition(b"\r\n\r\n")
        assert blank, head
        first, *fields = head.decode("latin-1").split("\r\n")
        pairs = (each.partition(": ") for each in fields)
        return first, {name.lower(): value for name, _, value in pairs}, rest

    def say(self, data: bytes | str) -> None:
        """Send."""
        self.connection.dataReceived(data.encode("latin-1") if isinstance(data, str) else data)

    def answer(self, status: str = "200 OK", body: bytes = b"", *fields: str) -> None:
        """Send a whole answer."""
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *fields, "", ""]
        self.say("\r\n".join(lines).encode("latin-1") + body)

    def end(self, *, rudely: bool = False) -> None:
        """End the connection."""
        error = ConnectionLost() if rudely else ConnectionDone()
        producer = self.transport.producer
        if producer is not None:
            producer.stopProducing()
        self.connection.connectionLost(Failure(error))

    @property
    def aborted(self) -> bool:
        """Whether the gateway has closed it."""
        return bool(self.transport.disconnecting or getattr(self.transport, "disconnected", False))

    @property
    def paused(self) -> bool:
        """Whether the gateway has paused reading."""
        return bool(self.transport.producerState == "paused")


class FakeEndpoint:
    """The endpoint of the registry (``IStreamClientEndpoint``): each connection is a :class:`RegistryEnd`."""

    def __init__(self) -> None:
        self.lines: list[RegistryEnd] = []
        #: What connecting fails with, ``None`` to connect; with ``waiting`` it does neither.
        self.error: Exception | None = None
        self.waiting = False

    def connect(self, factory: Any) -> Deferred[Protocol]:
        if self.waiting:
            return Deferred()
        if self.error is not None:
            return fail(self.error)
        connection = factory.buildProtocol(None)
        self.lines.append(RegistryEnd(connection))
        return succeed(connection)

    def refuse(self) -> None:
        """Refuse connections."""
        self.error = ConnectError()


@define
class FakeDirectory:
    """A cache directory: the cache of all clients, and whether it answers; an exception is raised."""

    cache: Any = None
    answers: bool = True
    asked: list[tuple[str | None, str]] = field(factory=list)
    probed: list[Cache] = field(factory=list)

    async def cache_for(self, account: str | None, address: str) -> Cache | None:
        self.asked.append((account, address))
        if isinstance(self.cache, Exception):
            raise self.cache
        return None if self.cache is None else Cache(UUID(int=1), "near", self.cache)

    async def is_answering(self, cache: Cache) -> bool:
        self.probed.append(cache)
        return self.answers


@define
class FakeOwnRegistry:
    """The registry by the gateway's own account."""

    answer: Any = None
    asked: list[Any] = field(factory=list)

    def subject(self, repository: str, credential: Credential) -> Subject:
        return Subject.of(b"secret", REGISTRY, repository, credential)

    async def ask(self, question: Any) -> Answer:
        self.asked.append(question)
        if isinstance(self.answer, CacheError):
            raise self.answer
        found: Answer = self.answer
        return found


class FakeCA(CACertificate):
    """A certificate without a file."""

    def __init__(self, pem: bytes | None) -> None:
        self.pem = pem


@define
class FakeTarget:
    """What the registry redirects to; an exception is raised."""

    answer: TargetAnswer | CacheError = field(factory=lambda: TargetAnswer(404))
    asked: list[str] = field(factory=list)

    async def first_byte(self, location: str, /) -> TargetAnswer:
        self.asked.append(location)
        if isinstance(self.answer, CacheError):
            raise self.answer
        return self.answer


class GatewayTestCase(TestCase):
    """Has a gateway, its clients, and the registry behind it."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.meter = Meter()
        self.endpoint = FakeEndpoint()
        self.directory = FakeDirectory()
        self.own_registry = FakeOwnRegistry()
        self.target = FakeTarget()
        self.pages: Resource = NoResource()
        self.written: list[AccessLogEntry] = []
        self.clients: list[Client] = []
        self.patch(AccessLog, "_log", _Pen(self.written))
        self.key_files = KeyFiles(
            self.mktemp(), lifetime=86400.0, url_lifetime=1200.0, wall=lambda: NOW + self.clock.seconds()
        )
        self.key_files.rotate()
        self.factory = self.build()

    def tearDown(self) -> None:
        """Disconnect all clients; unhandled failures are reported with this test."""
        for client in self.clients:
            client.leave()
        gc.collect()

    @property
    def signer(self) -> SigningKey:
        """The key that signs now."""
        key = self.key_files.signer()
        assert key is not None
        return key

    def build(
        self,
        *,
        prefix: str = "/",
        paths: tuple[str, ...] = (),
        limits: Limits | None = None,
        extra: Mapping[str, tuple[str, ...]] | None = None,
        ca: bytes | None = None,
        trusted: tuple[str, ...] = (),
    ) -> ServerFactory:
        """A gateway with these settings."""
        options = Gateway(
            REGISTRY,
            PUBLIC,
            signingkey="unused",
            database="unused",
            urlttl=1200.0,
            minimumsize=1000,
            paths=paths,
            limits=limits or Limits(),
        )
        http = Http(Address("127.0.0.1", 0), prefix=prefix, trustedproxies=trusted, headers=extra or {})
        endpoint: Any = self.endpoint
        self.connections = ConnectionPool(
            REGISTRY,
            endpoint,
            timer=self.clock,
            wall=lambda: NOW + self.clock.seconds(),
            stall_timeout=STALL,
            write_timeout=WRITE,
            meter=self.meter,
        )
        registry: Any = self.own_registry
        target: Any = self.target
        directory: Any = self.directory
        reactor: Any = self.clock
        platform = Platform(
            {},
            reactor,
            at_once,
            wall=lambda: NOW + self.clock.seconds(),
            random_below=lambda _bound: 0,
            random_bytes=bytes,
            transport_to=UpstreamTransport.to,
        )
        return make_server(
            GatewayContext(Live(Configuration(http, options)), platform, self.meter),
            Backends(self.connections, registry, target, directory, self.key_files, self.pages, FakeCA(ca)),
        )

    def client(self, address: str = "192.0.2.1") -> Client:
        """A new connection."""
        client = Client(self.factory, address)
        self.clients.append(client)
        return client

    def ask(self, target: str, *fields: str, method: str = "GET") -> tuple[Client, RegistryEnd]:
        """A request that has reached the registry."""
        before = len(self.endpoint.lines)
        client = self.client().send(request(target, *fields, method=method))
        self.assertEqual(len(self.endpoint.lines), before + 1)
        return client, self.line

    @property
    def line(self) -> RegistryEnd:
        """The last connection to the registry."""
        return self.endpoint.lines[-1]

    def reply(self, client: Client, method: str = "GET") -> Reply:
        """The one response that a client has received."""
        (reply,) = client.replies(method)
        return reply

    def own_registry_sends(
        self, status: int, headers: Mapping[str, str], pieces: Sequence[bytes], **more: Any
    ) -> FakeResponse:
        """Set the registry's response to the gateway's own account."""
        fields = Headers({name: [value] for name, value in headers.items()})
        broadcast = FakeResponse(status, fields, pieces, **more)
        self.own_registry.answer = Answer(REGISTRY, status, False, broadcast, self.clock, STALL)
        return broadcast


class _Pen:
    """Collects the records of the access log."""

    def __init__(self, lines: list[AccessLogEntry]) -> None:
        self._lines = lines

    def info(self, _format: str, access: AccessLogEntry) -> None:
        """A line."""
        self._lines.append(access)
