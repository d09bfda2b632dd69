"""A whole cache over misbehaving registries in memory, and its clients."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from random import Random
from typing import Any, Final, Literal, TypeVar, cast
from unittest.mock import patch
from urllib.parse import urlsplit

from attrs import evolve
from treq.client import HTTPClient
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from contentcache.aio.condition import Condition
from contentcache.aio.fair_semaphore import SemaphorePerKey
from contentcache.aio.threads import at_once
from contentcache.app import assembly
from contentcache.app.assembly import CacheContext, make_server
from contentcache.app.role import Platform
from contentcache.config.model import (
    Address,
    Configuration,
    Downstream,
    HtpasswdAuth,
    Http,
    Log,
    StorageSettings,
    TokenAuth,
    Upstream,
)
from contentcache.core.credentials import ANONYMOUS, Credential
from contentcache.core.digest import Digest
from contentcache.core.errors import CacheError
from contentcache.core.live import Live
from contentcache.core.ports import Run
from contentcache.core.request_order import RequestClock
from contentcache.core.routes import Content, TaggedManifest
from contentcache.delivery.authorization import Revocation
from contentcache.delivery.other_workers import OtherWorkers
from contentcache.delivery.requests import ContentRequest, TagRequest
from contentcache.delivery.responses import ContentResponse
from contentcache.delivery.signed_urls import SignedUrls
from contentcache.registry.origin_selection import OriginSelector
from contentcache.server.factory import ServerFactory
from contentcache.storage.index_memory import MemoryIndex
from contentcache.storage.interfaces import Index, Reservation, Store
from contentcache.storage.memory import MemoryStore
from contentcache.storage.opening import Storage
from contentcache.telemetry.metrics import Meter
from contentcache.upstream.agent import NoCookies, UpstreamTransport
from contentcache.upstream.redirects import RedirectPolicy
from contentcache.upstream.registry import Registry
from contentcache.upstream.request import UpstreamLimits
from tests.bad_registry import BadRegistry
from tests.delivery.wire import Wire

T = TypeVar("T")
REPOSITORY: Final = "org/app"
#: The one origin of a cache that is told of no others.
ORIGIN: Final = "https://one.example"
OCTETS: Final = "application/octet-stream"
MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
#: Seconds since the epoch when a cache is built.
BEGINNING: Final = 1_700_000_000.0
PSEUDONYM: Final = "contentcache-me"
SECRET: Final = b"secret of the tests"
LARGE: Final = bytes(range(256)) * 1200  # more than the first part of a fetch, and than a piece


def client_at(url: str, wire: Wire, clock: Clock) -> UpstreamTransport:
    """The ways to an upstream, in memory."""
    treq = HTTPClient(cast("Any", wire), cookiejar=NoCookies())
    return UpstreamTransport(RedirectPolicy.of(url), wire, wire, treq, cast("Any", clock))


def registry_of(
    upstream: Upstream,
    wire: Wire,
    clock: Clock,
    wall: Callable[[], float],
    per_host: SemaphorePerKey[str] | None = None,
    *,
    meter: Meter | None = None,
) -> Registry:
    """The real registry over the wire."""
    hosts = [*upstream.hosts, *([upstream.fallback] if upstream.fallback is not None else [])]
    return Registry(
        upstream,
        {host: client_at(host, wire, clock) for host in hosts},
        reactor=clock,
        wall=wall,
        secret=SECRET,
        limits=Live(UpstreamLimits(30.0, 64 << 10)),
        per_host=per_host,
        meter=meter or Meter(),
    )


_HTTP: Final = Http(Address("", 5000))


class InMemoryCache:
    """An assembled cache over the wire, for ``upstreams`` or one origin with one host."""

    def __init__(
        self,
        *upstreams: Upstream,
        auth: Literal["basic", "bearer"] | None = None,
        run: Run = at_once,
        store: Store | None = None,
        transport_to: Callable[..., UpstreamTransport] | None = None,
        **options: Any,
    ) -> None:
        self.upstreams = upstreams or (Upstream(ORIGIN, (ORIGIN,)),)
        self.clock = Clock()
        self.adjusted = 0.0
        self.random = Random(1)
        self.request_time = RequestClock(self.clock.seconds)
        urls = {url for up in self.upstreams for url in (*up.hosts, *([up.fallback] if up.fallback else []))}
        self.origins = {urlsplit(url).netloc: BadRegistry(auth) for url in sorted(urls)}
        self.origin = self.origins[urlsplit(self.upstreams[0].hosts[0]).netloc]
        self.wire = Wire(self.origins, self.clock)
        self.store: Store = MemoryStore() if store is None else store
        self.index: Index = MemoryIndex()
        self.room = True
        self.reserved: dict[str, int] = {}
        self.unlinked: set[str] = set()
        self._run = run
        self._transport_to = transport_to or self._over_the_wire
        self._options = options
        self.furnish(**options)

    def furnish(
        self,
        other_workers: OtherWorkers | None = None,
        *,
        http: Http = _HTTP,
        local_auth: TokenAuth | HtpasswdAuth | None = None,
        publish: Callable[[Revocation], None] = lambda _revocation: None,
        **options: Any,
    ) -> None:
        """Assemble the cache, anew too, over the wire, the store and the index that are there."""
        #: In a cache of two workers the second is that of both workers' registries.
        self.meter = self.meter_of_registries = Meter()
        self.live = Live(
            Configuration(
                http,
                Downstream(self.upstreams, **options),
                storage=StorageSettings("inmemory"),
                auth=local_auth,
                log=Log(accesslog=True),
            )
        )
        self.context = context = CacheContext(
            self.live,
            Platform(
                {},
                cast("Any", self.clock),
                self._run,
                self.wall,
                self.random.randrange,
                Random(2).randbytes,
                self._transport_to,
            ),
            Storage(self.store, self.index),
            self.meter,
            evolve(
                other_workers or OtherWorkers(),
                secret=SECRET,
                pseudonym=PSEUDONYM,
                room=self,
                on_revoked=publish,
            ),
        )
        # Workers of one machine have one clock, which never shows the same moment twice; this one stands still.
        with patch.object(assembly, "RequestClock", lambda _seconds: self.request_time):
            self.services = assembly.assemble(
                context.live,
                context.platform,
                storage=context.storage,
                meter=context.meter,
                other_workers=context.other_workers,
            )
        self.registries = self.services.upstreams.registries
        self.authorization = self.services.authorization
        self.blob_service = self.services.blob_service
        self.tags = self.services.tags
        self.origin_queries = self.services.origin_queries

    def serve(self, signed_urls: SignedUrls) -> ServerFactory:
        """The cache's server, with these signed URLs instead of its own."""
        services = self.services
        return make_server(
            self.context,
            services.blob_service,
            services.tags,
            services.origin_queries,
            origins=OriginSelector(self.registries),
            signed_urls=signed_urls,
            authenticator=None,
        )

    def _over_the_wire(self, url: str, **_options: Any) -> UpstreamTransport:
        return client_at(url, self.wire, self.clock)

    @property
    def running_downloads(self) -> int:
        """How many fetches are running."""
        return self.blob_service.downloads.running

    def wall(self) -> float:
        """Seconds since the epoch."""
        return BEGINNING + self.clock.seconds() + self.adjusted

    def later(self, seconds: float) -> None:
        """Let time go by, and everything happen that is due in it."""
        self.clock.pump([0.25] * int(seconds * 4) if seconds < 200 else [seconds])

    async def reserve(self, wanted: Reservation) -> str | None:
        """There is room for everything, or for nothing (``Room``)."""
        if self.room:
            self.reserved[wanted.key] = wanted.size
        return None if self.room else "there is no room in the store"

    def shrink(self, key: str, size: int, *, unlinked: bool) -> None:
        """Reserve no more than this (``Room``)."""
        if key in self.reserved:
            self.reserved[key] = min(size, self.reserved[key])
            if unlinked:
                self.unlinked.add(key)

    def release(self, key: str) -> None:
        """Give up a reservation (``Room``)."""
        self.reserved.pop(key, None)

    def asking(
        self,
        digest: Digest,
        authorization: str | None = None,
        *,
        repository: str = REPOSITORY,
        kind: Literal["blobs", "manifests"] = "blobs",
        origin: int = 0,
        credential: Credential | None = None,
        accept: tuple[str, ...] = (),
    ) -> ContentRequest:
        """A client's question for a content."""
        who = credential or (ANONYMOUS if authorization is None else Credential(authorization))
        registry = self.registries[origin]
        subject = registry.subject(repository, who)
        return ContentRequest(registry, subject, Content(repository, kind, digest), accept)

    def tag_asking(
        self, tag: str, authorization: str | None = None, *accept: str, origin: int = 0
    ) -> TagRequest:
        """A client's question for a tag."""
        who = ANONYMOUS if authorization is None else Credential(authorization)
        registry = self.registries[origin]
        subject = registry.subject(REPOSITORY, who)
        return TagRequest(registry, subject, TaggedManifest(REPOSITORY, tag), accept or (MANIFEST,))

    def pull(
        self,
        digest: Digest,
        authorization: str | None = None,
        *,
        part: tuple[int, int | None] = (0, None),
        takes: bool = True,
        whole: bool = True,
        small_part: bool = False,
        **more: Any,
    ) -> Client:
        """
        A client that asks for a content. It ``takes`` bytes at once, or when it is told to; not ``whole`` it
        asks with a range, for a ``glance`` with a small one.
        """
        asking = self.asking(digest, authorization, **more)
        return Client(self.blob_service.get(asking, whole=whole), part, takes=takes, small_part=small_part)

    def pull_tag(self, tag: str, authorization: str | None = None, *accept: str) -> Client:
        """A client that asks for what a tag means."""
        return Client(self.tags.get(self.tag_asking(tag, authorization, *accept)), (0, None), takes=True)


class BytesOnly:
    """As much of a ``ClientSink`` as is the same for all clients here: bytes are taken, files are not."""

    def __init__(self) -> None:
        self.got = bytearray()

    def can_send_files(self) -> bool:
        """Bytes only (``ClientSink``)."""
        return False

    async def send_file(self, descriptor: int, start: int, stop: int) -> int:
        """Nobody may ask for it (``ClientSink``)."""
        raise AssertionError("this client takes no files")

    async def send_by_pool(self, descriptor: int, start: int, stop: int) -> int:
        """There is none for such a client (``ClientSink``)."""
        return 0

    def write(self, data: bytes) -> None:
        """Bytes for the client (``ClientSink``)."""
        self.got += data


class Client(BytesOnly):
    """
    Somebody who wants bytes. ``outcome`` is ``None`` while it waits for more, then ``whole``, ``short``,
    ``left``, or the error that it got instead of a response.
    """

    def __init__(
        self,
        serving: Awaitable[ContentResponse],
        part: tuple[int, int | None],
        *,
        takes: bool,
        small_part: bool = False,
    ) -> None:
        super().__init__()
        self.served: ContentResponse | None = None
        self.outcome: str | Exception | None = None
        self._takes = takes
        self._glance = small_part
        self._condition = Condition()
        self.done = Deferred.fromCoroutine(self._pull(serving, part)).addErrback(self._failed)

    @property
    def status(self) -> int:
        """The status of the error that came instead of a response, 200 for a response."""
        return 200 if self.served is not None else int(getattr(self.outcome, "status", 0))

    def take(self) -> None:
        """Take bytes from now on."""
        self._takes = True
        self._condition.notify_all()

    def leave(self) -> None:
        """Hang up."""
        self.outcome = "left"
        self.done.cancel()

    async def ready(self) -> None:
        """Wait until the client takes more (``ClientSink``)."""
        while not self._takes:
            await self._condition.wait()

    async def _pull(self, serving: Awaitable[ContentResponse], part: tuple[int, int | None]) -> None:
        self.served = served = await serving
        start, stop = part
        try:
            end = served.body.size if stop is None else stop
            await served.body.send(self, start, end, small_part=self._glance)
            self.outcome = "whole"
        except CacheError:
            self.outcome = "short"
        finally:
            served.body.close()

    def _failed(self, failure: Any) -> None:
        if self.outcome != "left":
            self.outcome = failure.value


class InMemoryCacheTestCase(SynchronousTestCase):
    """Looks after each test whether something was left open."""

    def make_cache(self, *upstreams: Upstream, **options: Any) -> InMemoryCache:
        """A cache that is looked at when the test is over."""
        cache = InMemoryCache(*upstreams, **options)
        self.addCleanup(self._look_around, cache)
        return cache

    def _look_around(self, cache: InMemoryCache) -> None:
        self.assertEqual(cache.wire.open, set(), "bodies of upstream are neither read nor abandoned")
        self.assertEqual(cache.running_downloads, 0, "fetches go on")
        self.assertEqual(cache.reserved, {}, "room is still reserved")

    def result(self, coroutine: Coroutine[Deferred[Any], Any, T]) -> T:
        """What a coroutine answers that has nothing to wait for."""
        return self.successResultOf(Deferred.fromCoroutine(coroutine))

    def error(self, coroutine: Coroutine[Deferred[Any], Any, Any], kind: type[T]) -> T:
        """What it raises."""
        failure = self.failureResultOf(Deferred.fromCoroutine(coroutine), kind)
        return cast("T", failure.value)

    def assertWhole(self, client: Client, content: bytes) -> None:
        """The client has got everything, and it is right."""
        self.assertEqual(client.outcome, "whole")
        self.assertEqual(bytes(client.got), content)

    def assertRefused(self, client: Client, status: int) -> None:
        """The client has got an error and not a byte."""
        self.assertEqual((client.status, bytes(client.got)), (status, b""))
