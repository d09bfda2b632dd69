"""Tests for ``contentcache.upstream.proxies``."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from contentcache.config.model import ServerTLS
from contentcache.tls.server import ServerContext
from contentcache.tls.trust import UpstreamTrust
from contentcache.upstream.addresses import Place
from contentcache.upstream.proxies import Proxies, Proxy, ProxyFault, TunnelEndpoint, TunnelRefused
from contentcache.upstream.responses import why
from tests.tls.certificates import make
from tests.tls.handshakes import End
from tests.upstream.loopback import (
    Answer,
    LocalReactor,
    LoopbackTestCase,
    body_of,
)
from tests.upstream.proxying import ConnectProxyFactory, Wired

HTTP, HTTPS = Place.of("http://registry.example"), Place.of("https://registry.example")


class EnvironmentTests(SynchronousTestCase):
    """What is made of the variables."""

    def test_forms(self) -> None:
        """A proxy may come with or without scheme, port and login."""
        for value, url, authorization in [
            ("http://proxy:3128", "http://proxy:3128", None),
            ("proxy:3128", "http://proxy:3128", None),
            ("proxy", "http://proxy:80", None),
            (" http://Proxy.Example./ ", "http://proxy.example", None),
            ("https://proxy", "https://proxy:443", None),
            ("http://[::1]:3128", "http://[::1]:3128", None),
            ("http://user:secret@proxy:3128", "http://proxy:3128", b"Basic dXNlcjpzZWNyZXQ="),
            ("user:secret@proxy:3128", "http://proxy:3128", b"Basic dXNlcjpzZWNyZXQ="),
            ("http://user:s%40%3Acret@proxy", "http://proxy", b"Basic dXNlcjpzQDpjcmV0"),
            ("http://us%C3%A9r@proxy", "http://proxy", b"Basic dXPDqXI6"),
        ]:
            with self.subTest(value=value):
                proxies = Proxies.from_environment({"http_proxy": value})
                self.assertEqual(Proxy(Place.of(url), authorization), proxies.http)

    def test_faults(self) -> None:
        """What is no proxy is a fault that names the variable and shows no password."""
        for value in [
            "socks5://user:secret@proxy",
            "http://",
            "http://user:secret@",
            "http://user:secret@proxy:port",
            "http://user:secret@pro xy",
            "proxy:99999",
            "ftp://proxy",
            ":3128",
        ]:
            for name in ("https_proxy", "HTTPS_PROXY"):
                with self.subTest(value=value, name=name):
                    error = self.assertRaises(ProxyFault, Proxies.from_environment, {name: value})
                    self.assertTrue(str(error).startswith(name + ": "))
                    self.assertNotIn("secret", str(error))

    def test_password_is_not_shown(self) -> None:
        """No log line that prints a proxy prints its password."""
        proxies = Proxies.from_environment({"http_proxy": "http://user:secret@proxy"})
        self.assertNotIn("dXNlcjpzZWNyZXQ", repr(proxies))

    def test_choice(self) -> None:
        """Each scheme has its variable, lower case goes first, and an empty one is none."""
        for environment, place, host in [
            ({}, HTTP, None),
            ({"http_proxy": "a"}, HTTP, "a"),
            ({"http_proxy": "a"}, HTTPS, None),
            ({"HTTPS_PROXY": "a"}, HTTPS, "a"),
            ({"https_proxy": "a", "HTTPS_PROXY": "b"}, HTTPS, "a"),
            ({"https_proxy": " ", "HTTPS_PROXY": "b"}, HTTPS, "b"),
            ({"HTTPS_PROXY": "a", "no_proxy": "example"}, HTTPS, None),
            ({"HTTPS_PROXY": "a", "NO_PROXY": "registry.example:443"}, HTTPS, None),
            ({"HTTPS_PROXY": "a", "NO_PROXY": "other"}, HTTPS, "a"),
            ({"HTTPS_PROXY": "a"}, Place.of("https://localhost:5000"), None),
            ({"HTTPS_PROXY": "a"}, Place.of("https://127.0.0.1"), None),
        ]:
            with self.subTest(environment=environment, place=place):
                proxy = Proxies.from_environment(environment).before(place)
                self.assertEqual(host, proxy and proxy.place.host)

    @given(st.text(max_size=60))
    def test_raises_nothing_else(self, value: str) -> None:
        """Any value is a proxy, none, or a fault."""
        try:
            Proxies.from_environment({"http_proxy": value})
        except ProxyFault:
            return


class TunnelTests(SynchronousTestCase):
    """``CONNECT`` without a network."""

    def setUp(self) -> None:
        self.wired = Wired()
        proxy = Proxy(Place.of("http://proxy:3128"), b"Basic abc")
        endpoint = TunnelEndpoint(self.wired, proxy, Place.of("https://[2001:db8::1]"))
        self.connecting = endpoint.connect(Factory.forProtocol(End))

    def say(self, *pieces: bytes) -> None:
        """What the proxy says."""
        for piece in pieces:
            self.wired.protocol.dataReceived(piece)

    def test_request(self) -> None:
        """The target has a port and brackets, the login is sent."""
        lines = self.wired.transport.value().split(b"\r\n")
        self.assertEqual(b"CONNECT [2001:db8::1]:443 HTTP/1.1", lines[0])
        self.assertEqual({b"Host: [2001:db8::1]:443", b"Proxy-Authorization: Basic abc", b""}, set(lines[1:]))

    def test_opened(self) -> None:
        """After a 2xx all bytes belong to the protocol inside, those that came with the head too."""
        self.say(b"HTTP/1.0 100\r\n\r\nHTTP/1.1 20", b"0 OK\r\nVia: x\r\n", b"\r\nfirst", b" second")
        inside = self.successResultOf(self.connecting)
        self.assertEqual(b"first second", inside.received)
        self.wired.protocol.connectionLost(Failure(ConnectionDone()))
        self.assertIsNotNone(inside.reason)

    def test_refused(self) -> None:
        """Whatever else the proxy says is an error with its status, and the connection ends."""
        for said, expected in [
            (
                b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
                "the proxy proxy:3128 wants a login: 407 Proxy Authentication Required",
            ),
            (b"HTTP/1.1 503\r\n\r\n", "the proxy proxy:3128 does not open a tunnel: 503"),
            (b"HTTP/1.1 302 Found\r\nLocation: x\r\n\r\n", "does not open a tunnel: 302 Found"),
            (b"HTTP/1.1 502 \x1b[31mred\r\n\r\n", "does not speak HTTP"),
            (b"SSH-2.0-OpenSSH\r\n\r\n", "does not speak HTTP"),
            (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5000, "an answer without end"),
            (b"HTTP/1.1 100 Wait\r\n\r\n" * 3 + b"HTTP/1.1 403 No\r\n\r\n", "403 No"),
        ]:
            with self.subTest(said=said[:40]):
                self.setUp()
                self.say(said)
                error = self.failureResultOf(self.connecting, TunnelRefused).value
                self.assertIn(expected, str(error))
                self.assertTrue(self.wired.transport.aborted)
                self.say(b"more")
                self.wired.protocol.connectionLost(Failure(ConnectionDone()))

    def test_closed(self) -> None:
        """A proxy that disconnects early is an error too."""
        self.wired.protocol.connectionLost(Failure(ConnectionDone()))
        error = self.failureResultOf(self.connecting, TunnelRefused).value
        self.assertIn("closed the connection", str(error))

    def test_cancelled(self) -> None:
        """Who gives up closes the connection, and late answers are no defect."""
        self.connecting.cancel()
        self.failureResultOf(self.connecting, CancelledError)
        self.assertTrue(self.wired.transport.aborted)
        self.say(b"HTTP/1.1 200 OK\r\n\r\n")
        self.wired.protocol.connectionLost(Failure(ConnectionDone()))


class ProxiedRequestTests(LoopbackTestCase):
    """Requests through proxies on loopback."""

    def setUp(self) -> None:
        self.local = LocalReactor({"proxy.example": [["192.0.2.99"]]})
        identity = make("registry", hosts=("registry.example", "proxy.example"))
        self.certificate, key = identity.write(self.mktemp(), "server")
        self.tls = ServerContext(ServerTLS(self.certificate, key))
        self.trust = UpstreamTrust([self.certificate])

    async def test_plain(self) -> None:
        """A plain upstream is asked in absolute form, with the login, over one connection."""
        origin, port = self.serve(lambda _path: Answer())
        proxies = Proxies.from_environment({"http_proxy": f"http://user:secret@proxy.example:{port}"})
        url = "http://registry.example:5000/v2/?n=1"
        agent = self.transport(url, reactor=self.local, proxies=proxies).agent
        for _ in range(2):
            self.assertEqual(b"body", await body_of(await agent.request(b"GET", url.encode())))
        [(_, path, headers), _] = origin.asked
        self.assertEqual(url, path)
        self.assertEqual(["registry.example:5000"], headers.getRawHeaders("Host"))
        self.assertEqual(["Basic dXNlcjpzZWNyZXQ="], headers.getRawHeaders("Proxy-Authorization"))
        self.assertEqual(["192.0.2.99"], self.local.connected)
        self.assertEqual(["proxy.example"], self.local.nameResolver.asked)

    async def tunnelled(self, scheme: str, tls: Any) -> None:
        """Two requests to an https upstream through a proxy."""
        origin, port = self.serve(lambda _path: Answer(), self.tls)
        proxy = ConnectProxyFactory()
        proxy_port = self.listen(proxy, tls)
        proxies = Proxies.from_environment(
            {"https_proxy": f"{scheme}://user:secret@proxy.example:{proxy_port}"}
        )
        url = f"https://registry.example:{port}/v2/"
        agent = self.transport(url, reactor=self.local, proxies=proxies, trust=self.trust).agent
        for _ in range(2):
            self.assertEqual(b"body", await body_of(await agent.request(b"GET", url.encode())))
        [head] = proxy.heads
        self.assertTrue(head.startswith(f"CONNECT registry.example:{port} HTTP/1.1\r\n".encode()))
        self.assertIn(b"\r\nProxy-Authorization: Basic dXNlcjpzZWNyZXQ=\r\n", head)
        self.assertEqual(["/v2/", "/v2/"], origin.paths)
        self.assertFalse(origin.asked[0][2].hasHeader("Proxy-Authorization"))
        self.assertEqual(["proxy.example"], self.local.nameResolver.asked)

    async def test_tunnel(self) -> None:
        """An https upstream is asked through a tunnel that is kept; the login stays with the proxy."""
        await self.tunnelled("http", None)

    async def test_tunnel_by_tls(self) -> None:
        """The way to the proxy may be TLS itself."""
        await self.tunnelled("https", self.tls)

    async def test_refused(self) -> None:
        """A proxy that refuses is told in words."""
        proxy_port = self.listen(ConnectProxyFactory(b"HTTP/1.1 403 Forbidden by policy\r\n\r\n"))
        proxies = Proxies.from_environment({"https_proxy": f"proxy.example:{proxy_port}"})
        url = "https://registry.example/v2/"
        agent = self.transport(url, reactor=self.local, proxies=proxies, trust=self.trust).agent
        with self.assertRaises(TunnelRefused) as caught:
            await agent.request(b"GET", url.encode())
        self.assertIn("does not open a tunnel: 403 Forbidden by policy", why(caught.exception))

    async def test_exempted(self) -> None:
        """What is in ``NO_PROXY`` is asked directly."""
        _, port = self.serve(lambda _path: Answer())
        local = LocalReactor({"registry.example": [["127.0.0.1"]]})
        proxies = Proxies.from_environment({"http_proxy": "proxy.example:1", "no_proxy": ".example"})
        url = f"http://registry.example:{port}/"
        agent = self.transport(url, reactor=local, proxies=proxies).agent
        self.assertEqual(b"body", await body_of(await agent.request(b"GET", url.encode())))
