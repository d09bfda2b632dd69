"""Tests for ``contentcache.upstream.agent`` and ``contentcache.upstream.endpoints``."""

from __future__ import annotations

import gzip
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.internet.interfaces import IReactorPluggableNameResolver
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactor
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import ResponseNeverReceived
from twisted.web.http_headers import Headers
from zope.interface import implementer

from contentcache.config.model import ServerTLS
from contentcache.core.live import Live
from contentcache.tls.server import ServerContext
from contentcache.tls.trust import UpstreamTrust
from contentcache.upstream.agent import UpstreamAgent
from contentcache.upstream.proxies import Proxies
from contentcache.upstream.responses import why
from tests.tls.certificates import make
from tests.upstream.loopback import Answer, LocalReactor, LoopbackTestCase, Names, NoTrust, body_of


class RequestTests(LoopbackTestCase):
    """Requests to a server on loopback."""

    async def test_headers(self) -> None:
        """``Accept-Encoding`` and ``User-Agent`` are ours, whatever treq or a caller puts there."""
        origin, port = self.serve(lambda _path: Answer())
        url = f"http://127.0.0.1:{port}"
        client = self.transport(url).client
        response = await client.get(
            f"{url}/v2/",
            headers=Headers({"Accept-Encoding": ["br"], "User-Agent": ["x"], "Proxy-Authorization": ["x"]}),
            unbuffered=True,
            allow_redirects=False,
        )
        await body_of(response.original)
        [(_, _, headers)] = origin.asked
        self.assertEqual(["identity"], headers.getRawHeaders("Accept-Encoding"))
        self.assertEqual(["contentcache/0.1.0"], headers.getRawHeaders("User-Agent"))
        self.assertFalse(headers.hasHeader("Proxy-Authorization"))

    async def test_headers_of_the_caller_stay(self) -> None:
        """The caller's headers object is not changed."""
        _, port = self.serve(lambda _path: Answer())
        url = f"http://127.0.0.1:{port}/"
        headers = Headers({"Accept-Encoding": ["br"]})
        await body_of(await self.transport(url).agent.request(b"GET", url.encode(), headers))
        self.assertEqual(["br"], headers.getRawHeaders("Accept-Encoding"))

    async def test_body_is_not_decoded(self) -> None:
        """The bytes are those on the line though the server says that they are compressed."""
        squeezed = gzip.compress(b"layer")
        _, port = self.serve(lambda _path: Answer(headers={"Content-Encoding": "gzip"}, body=squeezed))
        url = f"http://127.0.0.1:{port}"
        response = await self.transport(url).client.get(url, unbuffered=True, allow_redirects=False)
        self.assertEqual(squeezed, await body_of(response.original))

    async def test_no_cookies(self) -> None:
        """A cookie that is set for one client is never sent for another."""
        origin, port = self.serve(lambda _path: Answer(headers={"Set-Cookie": "session=secret; Path=/"}))
        url = f"http://127.0.0.1:{port}"
        client = self.transport(url).client
        for _ in range(2):
            response = await client.get(url, unbuffered=True, allow_redirects=False)
            await body_of(response.original)
        self.assertEqual([False, False], [headers.hasHeader("Cookie") for _, _, headers in origin.asked])

    async def test_connections_are_kept(self) -> None:
        """One request after the other takes one connection."""
        _, port = self.serve(lambda _path: Answer())
        local = LocalReactor({"registry.example": [["192.0.2.1"]]})
        url = f"http://registry.example:{port}"
        agent = self.transport(url, reactor=local).agent
        for _ in range(3):
            await body_of(await agent.request(b"GET", url.encode()))
        self.assertEqual(["192.0.2.1"], local.connected)

    async def test_next_address(self) -> None:
        """An address that refuses is no obstacle while there is another; names may have underscores."""
        _, port = self.serve(lambda _path: Answer())

        class FirstRefuses(LocalReactor):
            def connectTCP(self, host: str, port: int, *args: Any, **kwargs: Any) -> Any:
                return super().connectTCP(host, 1 if host == "2001:db8::1" else port, *args, **kwargs)

        local = FirstRefuses({"my_registry": [["2001:db8::1", "192.0.2.1"]]})
        url = f"http://my_registry:{port}"
        response = await self.transport(url, reactor=local).agent.request(b"GET", url.encode())
        self.assertEqual(b"body", await body_of(response))
        self.assertEqual(["2001:db8::1", "192.0.2.1"], local.connected)

    async def test_unknown_name(self) -> None:
        """A name that does not resolve is an error that says which."""
        local = LocalReactor({})
        agent = self.transport("http://nowhere.example", reactor=local).agent
        with self.assertRaises(DNSLookupError) as caught:
            await agent.request(b"GET", b"http://nowhere.example/")
        self.assertEqual("the name nowhere.example cannot be resolved", why(caught.exception))

    async def test_tls(self) -> None:
        """An https upstream is verified by the host of the URL, and a wrong name is told in words."""
        folder = self.mktemp()
        identity = make("registry", hosts=("registry.example",))
        certificate, key = identity.write(folder, "server")
        origin, port = self.serve(lambda _path: Answer(), ServerContext(ServerTLS(certificate, key)))
        names = {"registry.example": [["127.0.0.1"]], "other.example": [["127.0.0.1"]]}
        local = LocalReactor(names)
        for host in names:
            url = f"https://{host}:{port}"
            agent = self.transport(url, reactor=local, trust=UpstreamTrust([certificate])).agent
            if host == "registry.example":
                self.assertEqual(b"body", await body_of(await agent.request(b"GET", url.encode())))
            else:
                with self.assertRaises(ResponseNeverReceived) as caught:
                    await agent.request(b"GET", url.encode())
                self.assertEqual("the certificate of other.example is for other names", why(caught.exception))
        self.assertEqual(1, len(origin.asked))


@implementer(IReactorPluggableNameResolver)
class TimedReactor(MemoryReactor, Clock):
    """A reactor in memory with a clock of the test, on which nothing ever connects."""

    def __init__(self, names: Any) -> None:
        MemoryReactor.__init__(self)
        Clock.__init__(self)
        self.nameResolver = names


class _Silent(Names):
    """A resolver that never answers."""

    def resolveHostName(self, receiver: Any, name: str, portNumber: int = 0, *_more: Any) -> Any:
        receiver.resolutionBegan(self)
        self.late = receiver
        return self


class TimeoutTests(SynchronousTestCase):
    """``connecttimeout``."""

    def asked(self, reactor: Any) -> Deferred[Any]:
        """A request that goes nowhere."""
        agent = UpstreamAgent(reactor, trust=NoTrust(), proxies=Proxies(), connect_timeout=Live(10.0))
        return agent.request(b"GET", b"http://registry.example/")

    def test_peer_that_drops_everything(self) -> None:
        """Addresses that never answer are given up together after the time, not one after the other."""
        reactor = TimedReactor(Names({"registry.example": [["192.0.2.1", "192.0.2.2", "192.0.2.3"]]}))
        asked = self.asked(reactor)
        reactor.pump([0.3] * 33)
        self.assertNoResult(asked)
        self.assertEqual(3, len(reactor.tcpClients))
        reactor.advance(0.2)
        failure = self.failureResultOf(asked, ConnectTimeout)
        self.assertEqual("registry.example does not answer within 10 s", why(failure))

    def test_names_that_do_not_resolve_in_time(self) -> None:
        """A resolver that hangs is within the time too, and may come late."""
        names = _Silent({})
        reactor = TimedReactor(names)
        asked = self.asked(reactor)
        reactor.advance(10.1)
        self.failureResultOf(asked, ConnectTimeout)
        names.late.resolutionComplete()

    def test_cancelled(self) -> None:
        """A request that is given up leaves nothing behind."""
        reactor = TimedReactor(Names({"registry.example": [["192.0.2.1"]]}))
        asked = self.asked(reactor)
        asked.cancel()
        self.failureResultOf(asked)
        self.assertEqual([], list(reactor.getDelayedCalls()))


class WhyTests(SynchronousTestCase):
    """Errors in words."""

    def test_table(self) -> None:
        """Whatever Twisted wraps and however it prefixes, a clause for people comes out."""
        refused = ConnectError(string="Connection refused")
        for error, expected in [
            (refused, "Connection refused"),
            (Failure(refused), "Connection refused"),
            (ResponseNeverReceived([Failure(refused)]), "Connection refused"),
            (ValueError("x."), "x"),
            (ValueError(), "ValueError"),
        ]:
            with self.subTest(error=error):
                self.assertEqual(expected, why(error))
