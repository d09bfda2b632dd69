"""Bad manners over a real line: the real client meets them on loopback."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from contentcache.config.model import Upstream
from contentcache.core.errors import UpstreamBroken, UpstreamUnavailable
from contentcache.core.live import Live
from contentcache.upstream.agent import UpstreamTransport
from contentcache.upstream.proxies import Proxies
from tests.bad_registry import BadRegistry
from tests.delivery.in_memory import LARGE, REPOSITORY, InMemoryCache
from tests.manners import Manners, misbehave
from tests.upstream.loopback import NoTrust

reactor: Any = global_reactor
HALF = len(LARGE) // 2


class LoopbackTests(TestCase):
    """The delivery room over real HTTP, one registry at one or two ports."""

    timeout = 30

    def setUp(self) -> None:
        self.registry = BadRegistry()
        self.digest = self.registry.put_blob(REPOSITORY, LARGE)
        self.url = self.listen(self.registry)

    def listen(self, registry: BadRegistry) -> str:
        """A server for a registry, ended with the test."""
        manners = Manners(registry, reactor)
        port = reactor.listenTCP(0, manners, interface="127.0.0.1")
        self.addCleanup(manners.close)
        self.addCleanup(port.stopListening)
        return f"http://127.0.0.1:{port.getHost().port}"

    def make_cache(self, *urls: str) -> InMemoryCache:
        """A cache whose registry is reached over the real line; its clock stands still, or goes by hand."""
        hosts = urls or (self.url,)
        return InMemoryCache(Upstream(hosts[0], hosts), transport_to=self.transport)

    def transport(self, url: str, **_options: Any) -> UpstreamTransport:
        """The real client."""
        trust: Any = NoTrust()
        made = UpstreamTransport.to(
            url,
            reactor=reactor,
            trust=trust,
            redirect_trust=trust,
            proxies=Proxies(),
            connect_timeout=Live(10.0),
        )
        self.addCleanup(lambda: Deferred.fromCoroutine(made.close()))
        return made

    async def test_good(self) -> None:
        """Without bad manners: one request, with the client's range left out and identity asked for."""
        client = self.make_cache().pull(self.digest)
        await client.done
        self.assertEqual((client.outcome, bytes(client.got)), ("whole", LARGE))
        [asked] = self.registry.requests
        self.assertEqual((asked.method, asked.headers["accept-encoding"]), ("GET", "identity"))

    async def test_breaks(self) -> None:
        """Reset or short at any byte, with a length and chunked: the other host goes on."""
        for name in ("reset", "short"):
            for framing in (None, "chunked"):
                for at in (0, 1, HALF, len(LARGE) - 1):
                    self.registry.behave()
                    if framing is not None:
                        self.registry.misbehave(framing, times=1)
                    self.registry.misbehave(name, at=at, times=1)
                    client = self.make_cache(self.url, self.listen(self.registry)).pull(self.digest)
                    await client.done
                    self.assertEqual(
                        (client.outcome, bytes(client.got)), ("whole", LARGE), (name, framing, at)
                    )

    async def test_framings(self) -> None:
        """Bodies without a length, chunked or delimited by the end of an HTTP/1.0 connection."""
        for framing in ("chunked", "close"):
            self.registry.behave()
            self.registry.misbehave(framing)
            client = self.make_cache().pull(self.digest)
            await client.done
            self.assertEqual((client.outcome, bytes(client.got)), ("whole", LARGE))

    async def test_no_head(self) -> None:
        """A connection that ends without an answer, and one that is refused."""
        self.registry.misbehave("reset", at=-1)
        cache = self.make_cache()
        asking = cache.asking(self.digest)
        await self.assertFailure(
            Deferred.fromCoroutine(asking.registry.ask(asking.upstream_request("GET"))), UpstreamBroken
        )
        closed = reactor.listenTCP(0, Manners(self.registry, reactor), interface="127.0.0.1")
        url = f"http://127.0.0.1:{closed.getHost().port}"
        await closed.stopListening()
        asking = self.make_cache(url).asking(self.digest)
        await self.assertFailure(
            Deferred.fromCoroutine(asking.registry.ask(asking.upstream_request("GET"))), UpstreamUnavailable
        )

    async def test_storage(self) -> None:
        """A redirect to storage on another port is followed without the credential."""
        storage = BadRegistry()
        storage.put_blob(REPOSITORY, LARGE)
        to = f"{self.listen(storage)}/storage/{self.digest}"
        self.registry.misbehave("redirect", path="/v2/*", to=to)
        client = self.make_cache().pull(self.digest, "Basic YTox")
        await client.done
        self.assertEqual((client.outcome, bytes(client.got)), ("whole", LARGE))
        self.assertEqual(self.registry.requests[0].headers["authorization"], "Basic YTox")
        self.assertNotIn("authorization", storage.requests[0].headers)

    async def test_stall_is_released(self) -> None:
        """A stall goes on when it is released, and readers have all that came before it."""
        self.registry.misbehave("stall", at=HALF)
        cache = self.make_cache()
        client = cache.pull(self.digest)
        for _ in range(5000):
            if len(client.got) == HALF:
                break
            cache.clock.advance(0.001)
            waiting: Deferred[None] = Deferred()
            reactor.callLater(0, waiting.callback, None)
            await waiting
        self.assertEqual(bytes(client.got), LARGE[:HALF])
        self.registry.release()
        await client.done
        self.assertEqual((client.outcome, bytes(client.got)), ("whole", LARGE))

    async def test_steered_from_outside(self) -> None:
        """Manners are switched over HTTP, as tests of the real daemon do it."""
        misbehave(self.registry, {"name": "reset", "at": "7", "times": "1", "path": "/x"})
        [rule] = self.registry.rules
        self.assertEqual((rule.times, rule.parameters), (1, {"at": 7}))
        transport = self.transport(self.url)
        words = urlencode({"name": "status", "status": "500", "path": "*/blobs/*"})
        for path in (f"/-/misbehave?{words}", "/-/behave", "/-/requests"):
            response = await transport.client.request("GET", self.url + path)
            self.assertEqual(response.code, 200)
            await response.content()
        self.assertEqual((self.registry.rules, self.registry.requests), ([], []))
