"""A real channel and registry API over contents that a test makes up."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import define, field, frozen
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from twisted.web.client import ResponseDone
from twisted.web.http_headers import Headers

from contentcache.aio.threads import at_once
from contentcache.app.assembly import CacheContext, make_server
from contentcache.app.role import Platform
from contentcache.auth.interfaces import LocalAuthenticator
from contentcache.config.model import (
    Address,
    Configuration,
    Downstream,
    Http,
    Limits,
    Log,
    StorageSettings,
    TokenAuth,
    Upstream,
)
from contentcache.core.credentials import Credential, Subject
from contentcache.core.digest import Digest
from contentcache.core.live import Live
from contentcache.core.via import CachesBehind
from contentcache.delivery.bodies import ClientSink, MemoryBody, ShortError
from contentcache.delivery.origin_queries import Pinged
from contentcache.delivery.other_workers import OtherWorkers
from contentcache.delivery.responses import ContentHead, ContentResponse, Outcome
from contentcache.delivery.signed_urls import SignedUrls
from contentcache.delivery.signing_keys import SigningKeys
from contentcache.registry.origin_selection import OriginSelector
from contentcache.server.access_log import AccessLog, AccessLogEntry
from contentcache.server.factory import ServerFactory
from contentcache.storage.index_memory import MemoryIndex
from contentcache.storage.memory import MemoryStore
from contentcache.storage.opening import Storage
from contentcache.telemetry.metrics import Meter
from contentcache.upstream.agent import UpstreamTransport
from contentcache.upstream.answers import Answer

CONTENT = bytes(range(256)) * 40
DIGEST = Digest.of(CONTENT)
BLOB = f"/v2/org/app/blobs/{DIGEST}"
OCTETS = "application/octet-stream"
HOST = "Host: cache.example\r\n"
_LIMITS = Limits()

#: Between the parts of a ``multipart/byteranges``.
BOUNDARY = (b"b" * 16).hex()


class Broken(Exception):
    """A defect that a test makes up."""


@define
class FakeResponse:
    """
    A response of upstream: ``pieces`` come as soon as somebody takes the body, and it ends with ``end``;
    where that is ``None`` it stays open.
    """

    code: int
    headers: Headers
    pieces: Sequence[bytes] = ()
    end: Exception | None = field(factory=ResponseDone)
    length: object = None
    protocol: Any = None
    paused: bool = False
    stopped: bool = False

    def deliverBody(self, protocol: Any) -> None:
        self.protocol = protocol
        protocol.makeConnection(self)
        for piece in self.pieces:
            protocol.dataReceived(piece)
        if self.end is not None:
            protocol.connectionLost(Failure(self.end))

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False

    def stopProducing(self) -> None:
        self.stopped = True


@frozen
class Origin:
    """What the API sees of an upstream."""

    upstream: Upstream
    behind: CachesBehind = field(factory=CachesBehind)

    def subject(self, repository: str | None, credential: Credential) -> Subject:
        """As the real one."""
        return Subject.of(b"", self.upstream.origin, repository, credential)


class SteppedBody:
    """A body that waits: :meth:`give` lets so many bytes go, :meth:`fail` ends it short or with a defect."""

    is_stored = False

    def __init__(self, content: bytes = CONTENT, *, size: int | None = len(CONTENT)) -> None:

        self.size = size
        self.closed = False
        self._content = content
        self._given: Deferred[int] = Deferred()

    async def send(self, flow: ClientSink, start: int, stop: int | None, *, small_part: bool = False) -> None:
        position = start
        while stop is None or position < stop:
            count = await self._given
            self._given = Deferred()
            if not count:
                return
            await flow.ready()
            flow.write(self._content[position : position + count])
            position += count

    def give(self, count: int) -> None:
        """Let ``count`` bytes go; none means that this was all."""
        self._given.callback(count)

    def fail(self, error: Exception) -> None:
        """Go no further."""
        self._given.errback(error)

    def end_short(self) -> None:
        """Go no further, as a fetch does that has failed."""
        self.fail(ShortError("upstream is gone"))

    def close(self) -> None:
        self.closed = True


@define
class FakeServices:
    """
    Contents, tags and origin_queries in one: what it answers, and what it has been asked.

    ``content`` is answered to every digest and tag, once ``waiting`` has fired; an exception is raised.
    """

    content: Any = CONTENT
    digest: Digest = DIGEST
    media_type: str | None = "application/vnd.oci.image.manifest.v1+json"
    outcome: Outcome = Outcome.HIT
    stale: bool = False
    pinged: Any = field(factory=lambda: Pinged(200, {}, b"{}"))
    answer: Any = None
    waiting: Any = field(factory=lambda: succeed(None))
    asked: list[Any] = field(factory=list)

    async def describe(self, asking: Any) -> ContentHead:
        self.asked.append(asking)
        size = self._content().size
        return ContentHead(self.digest, size, self.media_type, self.outcome, self.stale)

    async def get(self, asking: Any, *, whole: bool = True) -> ContentResponse:
        self.asked.append(asking)
        await self.waiting
        return ContentResponse(self.digest, self._content(), self.media_type, self.outcome, self.stale)

    async def ping(self, registry: Any, subject: Any, via: str) -> Any:
        self.asked.append((registry, subject, via))
        if isinstance(self.pinged, Exception):
            raise self.pinged
        return self.pinged

    async def ask(self, registry: Any, request: Any) -> Any:
        self.asked.append((registry, request))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def _content(self) -> Any:
        if isinstance(self.content, Exception):
            raise self.content
        return MemoryBody(self.content) if isinstance(self.content, bytes) else self.content


@frozen
class Reply:
    """A response as a client reads it. ``body`` is without chunks; ``whole`` says that it had its proper end."""

    status: int
    headers: Headers
    body: bytes
    whole: bool = True

    def header(self, name: str) -> str | None:
        """The only value of a header."""
        values = self.headers.getRawHeaders(name) or []
        assert len(values) <= 1, (name, values)
        return values[0] if values else None


_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([0-9]{3}) [^\r\n]*")


def replies(data: bytes, *methods: str) -> list[Reply]:
    """
    Everything that a connection sent, read strictly, with what every answer must have; ``methods`` are those
    of the requests, else ``GET``.
    """
    found: list[Reply] = []
    while data:
        head, blank, data = data.partition(b"\r\n\r\n")
        assert blank, head[:80]
        line, *fields = head.split(b"\r\n")
        match = _STATUS_LINE.fullmatch(line)
        assert match is not None, line[:80]
        status = int(match[1])
        headers = Headers()
        for each in fields:
            name, colon, value = each.partition(b": ")
            assert colon, each
            headers.addRawHeader(name, value)
        if status == 100:
            continue
        # Every answer, whoever makes it: a browser that is led here must not read it as HTML.
        assert headers.getRawHeaders("X-Content-Type-Options") == ["nosniff"], head
        method = methods[len(found)] if len(found) < len(methods) else "GET"
        body, whole, data = _body(status, method, headers, data)
        found.append(Reply(status, headers, body, whole))
    return found


def _body(status: int, method: str, headers: Headers, data: bytes) -> tuple[bytes, bool, bytes]:
    if method == "HEAD" or status in {204, 304}:
        return b"", True, data
    if headers.getRawHeaders("Transfer-Encoding") == ["chunked"]:
        body = b""
        while data:
            size, _, data = data.partition(b"\r\n")
            count = int(size, 16)
            body, data = body + data[:count], data[count + 2 :]
            if not count:
                return body, True, data
        return body, False, b""
    length = headers.getRawHeaders("Content-Length")
    if length is None:
        return data, True, b""
    count = int(length[0])
    return data[:count], len(data) >= count, data[count:]


_LOG = Log(accesslog=True)


class Client:
    """One connection to a factory, in memory."""

    def __init__(self, factory: Any, address: str = "192.0.2.1") -> None:
        place: Any = IPv4Address("TCP", address, 40000)
        self.transport = StringTransport(peerAddress=place, lenient=True)
        self.channel = factory.buildProtocol(place)
        self.channel.makeConnection(self.transport)

    def send(self, data: str | bytes) -> Client:
        """Bytes arrive."""
        self.channel.dataReceived(data.encode("latin-1") if isinstance(data, str) else data)
        return self

    def ask(self, target: str, *fields: str, method: str = "GET") -> Reply:
        """Send one request and read its answer."""
        self.transport.clear()
        self.send(request(target, *fields, method=method))
        (reply,) = self.replies(method)
        return reply

    def replies(self, *methods: str) -> list[Reply]:
        """Read all answers so far."""
        return replies(self.transport.value(), *methods)

    @property
    def producer(self) -> Any:
        """What the transport tells how fast it takes."""
        return self.transport.producer

    def leave(self) -> None:
        """The client goes."""
        self.channel.connectionLost(Failure(ConnectionDone()))

    @property
    def ended(self) -> bool:
        """Whether the cache has ended the connection."""
        return self.transport.disconnecting


def request(target: str, *fields: str, method: str = "GET") -> str:
    """A request as good clients send it."""
    return f"{method} {target} HTTP/1.1\r\n{HOST}" + "".join(f"{each}\r\n" for each in fields) + "\r\n"


class RegistryTestCase(TestCase):
    """Has a factory, an API, and :attr:`services` behind it."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.meter = Meter()
        self.services = FakeServices()
        self.lines: list[AccessLogEntry] = []
        self.patch(AccessLog, "_log", _Pen(self.lines))
        self.factory = self.build()

    def build(
        self,
        *upstreams: Upstream,
        limits: Limits = _LIMITS,
        prefix: str = "/",
        extra: Mapping[str, tuple[str, ...]] | None = None,
        clock: Any = None,
        authenticator: LocalAuthenticator | None = None,
        authorizes: bool = False,
        keys: Mapping[str, SigningKeys] | None = None,
        log: Log = _LOG,
    ) -> ServerFactory:
        """A factory with these upstreams, one for everything if there are none."""
        given = upstreams or (Upstream("https://a.example", ("https://a.example",)),)
        registries: Any = [Origin(upstream) for upstream in given]
        reactor: Any = clock or self.clock
        self.registries = registries
        parts: Any = self.services
        platform = Platform(
            {},
            reactor,
            at_once,
            lambda: 1e9,
            lambda _n: 0,
            lambda n: b"b" * n,
            UpstreamTransport.to,
        )
        configuration = Configuration(
            Http(Address("", 5000), prefix=prefix, headers=extra or {}),
            Downstream(given, limits=limits, fastpath=False),
            storage=StorageSettings("inmemory"),
            auth=TokenAuth("https://auth.example/token", "service", "issuer") if authorizes else None,
            log=log,
        )
        return make_server(
            CacheContext(
                Live(configuration),
                platform,
                Storage(MemoryStore(), MemoryIndex()),
                self.meter,
                OtherWorkers(secret=b"secret of the tests", pseudonym="contentcache-me"),
            ),
            parts,
            parts,
            parts,
            origins=OriginSelector(registries),
            signed_urls=SignedUrls(keys or {}, wall=platform.wall, secret=b"secret of the tests"),
            authenticator=authenticator,
        )

    def client(self, address: str = "192.0.2.1") -> Client:
        """A new connection."""
        return Client(self.factory, address)

    def ask(self, target: str, *fields: str, method: str = "GET") -> Reply:
        """One request on a connection of its own."""
        return self.client().ask(target, *fields, method=method)

    def upstream_says(
        self,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        pieces: Sequence[bytes] = (b"{}",),
        **more: Any,
    ) -> FakeResponse:
        """What the next origin_queries are answered."""
        fields = Headers({name: [value] for name, value in (headers or {}).items()})
        broadcast = FakeResponse(status, fields, pieces, **more)
        self.services.answer = Answer("https://a.example", status, False, broadcast, self.clock, 30.0)
        return broadcast

    def assert_refused(self, reply: Reply, status: int, code: str = "UNSUPPORTED") -> None:
        """A reply is an error in the form of the distribution spec."""
        self.assertEqual((reply.status, reply.header("Content-Type")), (status, "application/json"))
        (entry,) = json.loads(reply.body)["errors"]
        self.assertEqual(entry["code"], code)
        self.assertTrue(entry["message"])
        self.assertEqual(reply.header("Docker-Distribution-Api-Version"), "registry/2.0")


class _Pen:
    """Keeps what is written into the access log."""

    def __init__(self, lines: list[AccessLogEntry]) -> None:
        self._lines = lines

    def info(self, _format: str, access: AccessLogEntry) -> None:
        """A line."""
        self._lines.append(access)
