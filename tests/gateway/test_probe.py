"""
Tests for :mod:`contentcache.gateway.probe`.
"""

from __future__ import annotations

from typing import Any

from twisted.internet import endpoints, reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface import implementer

from contentcache.gateway.liveness import NotAlive
from contentcache.gateway.probe import HttpProbe
from contentcache.tls.trust import UpstreamTrust
from tests.real.programs import free_port


@implementer(IPolicyForHTTPS)
class Nobody:
    """
    Whom to trust, where nobody speaks TLS.
    """

    def creatorForNetloc(self, hostname: bytes, port: int) -> Any:
        raise AssertionError


NOBODY: Any = Nobody()


class Says(Protocol):
    """
    Says one thing to whatever is asked, and keeps what that was.
    """

    def __init__(self, factory: Any) -> None:
        self._factory = factory

    def dataReceived(self, data: bytes) -> None:
        self._factory.heard += data
        transport: Any = self.transport
        transport.write(self._factory.answer)
        if self._factory.hangs_up:
            transport.loseConnection()

    def connectionLost(self, reason: Any = None) -> None:
        self._factory.lost.callback(None)


class ProbeTests(TestCase):
    """
    Over the loopback.
    """

    async def probe(
        self, answer: bytes, *, hangs_up: bool = False, scheme: str = "http", trust: Any = NOBODY
    ) -> bytes:
        """
        Ask a cache that says ``answer``; what it heard. The connection has ended then.
        """
        factory: Any = Factory()
        factory.heard, factory.answer, factory.hangs_up = b"", answer, hangs_up
        factory.lost = Deferred()
        factory.buildProtocol = lambda _address: Says(factory)
        running: Any = reactor
        port = await endpoints.TCP4ServerEndpoint(running, 0, interface="127.0.0.1").listen(factory)
        try:
            await HttpProbe(running, trust)(f"{scheme}://127.0.0.1:{port.getHost().port}")
        finally:
            await factory.lost
            await port.stopListening()
        heard: bytes = factory.heard
        return heard

    async def test_alive(self) -> None:
        """
        A 2xx is a yes, without its body; the connection is given back at once.
        """
        heard = await self.probe(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nx")
        self.assertTrue(heard.startswith(b"GET / HTTP/1.1\r\n"))
        await self.probe(b"HTTP/1.1 204 No Content\r\n\r\n")

    async def test_other_answers(self) -> None:
        """
        Other answers, rubbish and silence with an end are told in words; no redirect is followed.
        """
        for answer, hangs_up, words in (
            (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", False, "status 503"),
            (
                b"HTTP/1.1 302 Found\r\nLocation: http://x.invalid/\r\nContent-Length: 0\r\n\r\n",
                False,
                "status 302",
            ),
            (b"", True, "it hangs up"),
            (b"220 mail.example ESMTP\r\n", True, ""),
        ):
            try:
                await self.probe(answer, hangs_up=hangs_up)
            except NotAlive as error:
                self.assertIn(words, str(error))
                self.assertNotIn("<twisted", str(error))
                self.assertTrue(str(error))
            else:
                self.fail(f"{answer!r} was taken for a yes")

    async def test_no_tls(self) -> None:
        """
        What does not speak TLS where it should is told in words, too.
        """
        try:
            await self.probe(b"HTTP/1.1 400 Bad Request\r\n\r\n", scheme="https", trust=UpstreamTrust(()))
        except NotAlive as error:
            self.assertIn("does not speak TLS as it should: ", str(error))
            self.assertNotIn("SSL routines", str(error))
        else:
            self.fail("plain HTTP was taken for TLS")

    async def test_nobody(self) -> None:
        """
        Where nobody listens, that is said.
        """
        running: Any = reactor
        try:
            await HttpProbe(running, NOBODY)(f"http://127.0.0.1:{free_port()}")
        except NotAlive as error:
            self.assertIn("cannot be connected to", str(error))
        else:
            self.fail("nobody was taken for a cache")


class PatienceTests(SynchronousTestCase):
    """
    With a clock.
    """

    def test_too_slow(self) -> None:
        """
        Who says nothing for five seconds is dead.
        """
        memory: Any = MemoryReactorClock()
        asking = Deferred.fromCoroutine(HttpProbe(memory, NOBODY)("http://127.0.0.1:5000"))
        memory.advance(4.9)
        self.assertNoResult(asking)
        memory.advance(0.2)
        self.assertIn("within 5 s", str(self.failureResultOf(asking, NotAlive).value))
        self.assertIsInstance(memory, Clock)
