"""Heads that do not end, and heads that do."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.protocol import Factory, Protocol
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.web.client import ResponseFailed, ResponseNeverReceived

from contentcache.upstream.responses import LARGEST_HEAD
from tests.upstream.loopback import LoopbackTestCase, body_of, reactor

_LINE = b"X-Header: " + b"x" * 1000 + b"\r\n"


class Endless(Protocol):
    """Sends ``begin``, and then headers for as long as somebody takes them."""

    begin = b"HTTP/1.1 200 OK\r\n"
    line = _LINE
    sent = 0
    lost = False

    def dataReceived(self, _data: bytes) -> None:
        transport: Any = self.transport
        transport.write(self.begin)
        transport.registerProducer(self, True)
        self.resumeProducing()

    def resumeProducing(self) -> None:
        transport: Any = self.transport
        if not self.lost:
            Endless.sent += len(self.line)
            transport.write(self.line)
            reactor.callLater(0, self.resumeProducing)

    def pauseProducing(self) -> None:
        pass

    def stopProducing(self) -> None:
        self.lost = True

    def connectionLost(self, reason: object = None) -> None:
        self.lost = True


class Interim(Endless):
    """Says 100 for ever."""

    begin = b""
    line = b"HTTP/1.1 100 Continue\r\n" + _LINE + b"\r\n"


class Large(Protocol):
    """Sends a head of many headers, as large as it may be, and a body behind it."""

    def dataReceived(self, _data: bytes) -> None:
        transport: Any = self.transport
        lines = _LINE * ((LARGEST_HEAD - 1000) // len(_LINE))
        transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n" + lines + b"\r\n" + b"b" * 300_000)


class HeadTests(LoopbackTestCase):
    """Answers of servers on loopback."""

    def open(self, kind: type[Protocol]) -> str:
        """A server of that kind."""
        port = reactor.listenTCP(0, Factory.forProtocol(kind), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return f"http://127.0.0.1:{port.getHost().port}"

    async def test_endless(self) -> None:
        """A head without end fails the request after a bounded number of bytes, interim answers counted."""
        for kind in (Endless, Interim):
            Endless.sent = 0
            url = self.open(kind)
            try:
                await self.transport(url).client.get(url, unbuffered=True)
            except (ResponseFailed, ResponseNeverReceived):
                pass
            else:
                self.fail("a head that never ended was an answer")
            self.assertLess(Endless.sent, 64 * LARGEST_HEAD)

    async def test_large(self) -> None:
        """A large head and the body behind it pass, as often as they come on one connection."""
        url = self.open(Large)
        client = self.transport(url).client
        for _ in range(3):
            response = await client.get(url, unbuffered=True)
            self.assertEqual(len(await body_of(response.original)), 300_000)

    async def test_quiet(self) -> None:
        """A connection that comes and goes is no line in the log."""
        events: list[LogEvent] = []
        observer = cast("ILogObserver", events.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        url = self.open(Large)
        response = await self.transport(url).client.get(url, unbuffered=True)
        await body_of(response.original)
        told = [event for event in events if event.get("log_namespace", "").startswith("contentcache.")]
        self.assertEqual(told, [])
