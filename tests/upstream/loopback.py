"""Servers and proxies on loopback for the tests of the way upstream."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attrs import define, field
from twisted.internet import reactor as global_reactor
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorPluggableNameResolver
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import TestCase
from twisted.web.client import readBody
from twisted.web.http_headers import Headers
from twisted.web.resource import Resource
from twisted.web.server import Site
from zope.interface import implementer

from contentcache.core.live import Live
from contentcache.upstream.agent import UpstreamTransport
from contentcache.upstream.proxies import Proxies

reactor: Any = global_reactor


@define
class Answer:
    """What a server says."""

    code: int = 200
    headers: Mapping[str, str] = field(factory=dict)
    body: bytes = b"body"


class Origin(Resource):
    """Answers every path as a function says, and remembers the requests."""

    isLeaf = True

    def __init__(self, answer: Callable[[str], Answer]) -> None:
        super().__init__()
        self._answer = answer
        self.asked: list[tuple[str, str, Headers]] = []

    def render(self, request: Any) -> bytes:
        self.asked.append((request.method.decode(), request.uri.decode(), request.requestHeaders.copy()))
        answer = self._answer(request.uri.decode())
        request.setResponseCode(answer.code)
        for name, value in answer.headers.items():
            request.setHeader(name, value)
        return b"" if request.method == b"HEAD" else answer.body

    @property
    def paths(self) -> list[str]:
        """What was asked for."""
        return [path for _, path, _ in self.asked]


class Names:
    """A resolver with a table; each name has a list of answers, the last of which stays."""

    def __init__(self, table: Mapping[str, Sequence[Sequence[str]]]) -> None:
        self._answers = {name: list(answers) for name, answers in table.items()}
        self.asked: list[str] = []

    def resolveHostName(self, receiver: Any, name: str, portNumber: int = 0, *_more: Any) -> Any:
        self.asked.append(name)
        answers = self._answers.get(name, [[]])
        receiver.resolutionBegan(self)
        for address in answers.pop(0) if len(answers) > 1 else answers[0]:
            kind = IPv6Address if ":" in address else IPv4Address
            receiver.addressResolved(kind("TCP", address, portNumber))
        receiver.resolutionComplete()
        return self

    def cancel(self) -> None:
        """Nothing goes on."""


@implementer(IReactorPluggableNameResolver)
class LocalReactor:
    """
    The real reactor with names of the test, and a record of what was connected to.

    Every connection goes to loopback, whichever address was meant.
    """

    def __init__(self, names: Mapping[str, Sequence[Sequence[str]]]) -> None:
        self.nameResolver = Names(names)
        self.callLater = reactor.callLater
        self.seconds = reactor.seconds
        self.connected: list[str] = []

    def connectTCP(self, host: str, port: int, *args: Any, **kwargs: Any) -> Any:
        self.connected.append(host)
        return reactor.connectTCP("127.0.0.1", port, *args, **kwargs)


SECRETS = {
    "Authorization": ["Bearer secret"],
    "Cookie": ["secret"],
    "X-Secret": ["secret"],
    "If-None-Match": ['"x"'],
}
HARMLESS = {
    "Range": ["bytes=0-"],
    "If-Range": ['"x"'],
    "Accept": ["a/b", "c/d"],
    "Via": ["1.1 us"],
}


class LoopbackTestCase(TestCase):
    """Starts servers, and ends them and the clients with the test."""

    timeout = 20

    def listen(self, factory: Any, tls: Any = None) -> int:
        """Listen on a free port, and give its number."""
        if tls is not None:
            factory = TLSMemoryBIOFactory(tls, False, factory)
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return int(port.getHost().port)

    def serve(self, answer: Callable[[str], Answer], tls: Any = None) -> tuple[Origin, int]:
        """An origin and its port."""
        origin = Origin(answer)
        site: Any = Site(origin)
        site.noisy = False
        return origin, self.listen(site, tls)

    def transport(self, url: str, **more: Any) -> UpstreamTransport:
        """The ways to an upstream, closed at the end."""
        given: dict[str, Any] = {
            "reactor": reactor,
            "trust": NoTrust(),
            "redirect_trust": more.get("trust", NoTrust()),
            "proxies": Proxies(),
            "connect_timeout": Live(10.0),
            **more,
        }
        made = UpstreamTransport.to(url, **given)
        self.addCleanup(lambda: Deferred.fromCoroutine(made.close()))
        return made


class RedirectingTestCase(LoopbackTestCase):
    """A registry and a storage on loopback, with the addresses that the test gives their names."""

    def two(self, **names: str) -> None:
        """A registry that redirects ``/v2/…`` to storage, both with a name."""
        self.location = ""
        self.code = 307
        self.moved = b""
        self.storage, self.storage_port = self.serve(self._stored)
        self.registry, self.registry_port = self.serve(
            lambda path: (
                Answer(self.code, {"Location": self.location}, self.moved)
                if path.startswith("/v2/")
                else Answer()
            )
        )
        self.local = LocalReactor({f"{name}.example": [[address]] for name, address in names.items()})
        self.base = f"http://registry.example:{self.registry_port}"
        self.location = f"http://storage.example:{self.storage_port}/blob?sig=%2F+"

    def _stored(self, path: str) -> Answer:
        return Answer(403, body=b"denied") if "denied" in path else Answer(body=b"stored")

    async def fetch(self, **more: Any) -> Any:
        """Ask the registry for a blob."""
        transport = self.transport(self.base, reactor=self.local, **more)
        headers = Headers({**SECRETS, **HARMLESS})
        return await transport.fetch_following("GET", f"{self.base}/v2/blob", headers)


class NoTrust:
    """For tests without TLS."""

    def creatorForNetloc(self, hostname: bytes, port: int) -> Any:
        raise AssertionError("no TLS in this test")


async def body_of(response: Any) -> bytes:
    """The whole body."""
    body: bytes = await readBody(response)
    return body
