"""Tests for :mod:`contentcache.gateway.probe`."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet import endpoints, reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface import implementer

from contentcache.config.model import Upstream
from contentcache.core.errors import KEPT_OUT, RepositoryDenied
from contentcache.gateway.probe import PROBE_BLOB, PROBE_BYTES, HttpProbe, ProbeError
from contentcache.registry.admission import check_policy
from contentcache.server.errors import error_response
from contentcache.tls.trust import UpstreamTrust
from tests.real.programs import free_port


@implementer(IPolicyForHTTPS)
class Nobody:
    """A trust policy where no peer has TLS."""

    def creatorForNetloc(self, hostname: bytes, port: int) -> Any:
        raise AssertionError


NOBODY: Any = Nobody()
TARGET = "/v2/contentcache/probe/blobs/sha256:00?token=x.y.z"


def whole(status: int, body: bytes, *fields: str) -> bytes:
    """An answer with its length."""
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *fields, "", ""]
    return "\r\n".join(lines).encode() + body


def error_of(message: str) -> bytes:
    """The body of a registry's error."""
    return json.dumps({"errors": [{"code": "DENIED", "message": message}]}).encode()


class Says(Protocol):
    """Sends one response to each request, and records the requests."""

    def __init__(self, factory: Any) -> None:
        self._factory = factory
        self._lost: Deferred[None] = Deferred()
        factory.lost.append(self._lost)

    def dataReceived(self, data: bytes) -> None:
        self._factory.heard += data
        transport: Any = self.transport
        # To HEAD its head alone.
        head, end, _ = self._factory.answer.partition(b"\r\n\r\n")
        transport.write(head + end if data.startswith(b"HEAD ") else self._factory.answer)
        if self._factory.hangs_up:
            transport.loseConnection()

    def connectionLost(self, reason: Any = None) -> None:
        self._lost.callback(None)


class ProbeTests(TestCase):
    """Over the loopback."""

    async def probe(
        self, answer: bytes, *, hangs_up: bool = False, scheme: str = "http", trust: Any = NOBODY
    ) -> bytes:
        """Probe a cache that sends ``answer``; what it received. The connection has ended then."""
        factory: Any = Factory()
        factory.heard, factory.answer, factory.hangs_up = b"", answer, hangs_up
        factory.lost = []
        factory.buildProtocol = lambda _address: Says(factory)
        running: Any = reactor
        port = await endpoints.TCP4ServerEndpoint(running, 0, interface="127.0.0.1").listen(factory)
        try:
            await HttpProbe(running, trust, lambda: TARGET)(f"{scheme}://127.0.0.1:{port.getHost().port}")
        finally:
            await gatherResults(factory.lost)
            await port.stopListening()
        heard: bytes = factory.heard
        return heard

    async def failed(self, answer: bytes, *, hangs_up: bool = False) -> str:
        """The fault of a cache that sends ``answer``."""
        try:
            await self.probe(answer, hangs_up=hangs_up)
        except ProbeError as error:
            self.assertNotIn("<twisted", str(error))
            self.assertNotIn("x.y.z", str(error))
            return str(error)
        raise AssertionError(f"{answer!r} was taken for a yes")

    async def test_alive(self) -> None:
        """
        The right digest for ``HEAD`` of a signed URL is a success, and so are the bytes for ``GET`` where it is
        not stated; the connections are closed at once.
        """
        heard = await self.probe(whole(200, b"", f"Docker-Content-Digest: {PROBE_BLOB.digest}"))
        self.assertTrue(heard.startswith(f"HEAD {TARGET} HTTP/1.1\r\n".encode()))
        self.assertNotIn(b"GET ", heard)
        self.assertNotIn(b"Authorization", heard)
        heard = await self.probe(whole(200, PROBE_BYTES))
        self.assertIn(f"GET {TARGET} HTTP/1.1\r\n".encode(), heard)
        await self.probe(b"HTTP/1.1 200 OK\r\n\r\n" + PROBE_BYTES, hangs_up=True)

    async def test_keys(self) -> None:
        """A cache that refuses what this gateway signs is dead, and its own message says why."""
        sentence = "the token of this URL is signed with a key that the origin does not show"
        self.assertEqual(
            await self.failed(whole(403, error_of(sentence))),
            f"it refuses URLs that this gateway signs (403: {sentence})",
        )

    async def test_policy(self) -> None:
        """
        A cache whose operator keeps the probe's repository out has verified the signature first: it is
        alive.
        """
        upstream = Upstream("https://o.example", ("https://o.example",), allow=("org/*",))
        with self.assertRaises(RepositoryDenied) as caught:
            check_policy("contentcache/probe", upstream)
        caught.exception.message = "said in other words some day"
        answer = error_response(caught.exception, "abc")
        await self.probe(whole(answer.status, answer.body))
        # As caches say it that give no detail.
        await self.probe(
            whole(403, error_of("the operator of this cache does not let contentcache/probe pass"))
        )
        # A wrong key is none of both, whatever name it quotes.
        for detail in (None, {}, {"reason": "other"}, "repository-policy", [KEPT_OUT], {**KEPT_OUT, "x": 1}):
            entry = {"code": "DENIED", "message": "a wrong signature", "detail": detail}
            body = json.dumps({"errors": [entry]}).encode()
            self.assertIn("a wrong signature", await self.failed(whole(403, body)))
        body = json.dumps({"errors": [{"code": "X", "message": "no", "detail": dict(KEPT_OUT)}]}).encode()
        self.assertIn("no", await self.failed(whole(404, body)))

    async def test_other_answers(self) -> None:
        """
        Other responses, garbage and closed connections are faults in plain words; no redirect is followed, and
        nothing that is large or unprintable is quoted, and no token.
        """
        for answer, words in (
            (whole(200, b"<html>It works!"), "with other bytes"),
            (whole(200, b"x" * 29, "Docker-Content-Digest: sha256:00"), "with other bytes"),
            (whole(200, b""), "with other bytes"),
            (whole(200, PROBE_BYTES + b"x" * 100_000), "with other bytes"),
            (whole(503, error_of("no upstream of this cache can be reached now")), "503: no upstream"),
            (whole(404, error_of("not here")), "does not serve a signed URL (404: not here)"),
            (whole(403, b"<html>"), "refuses URLs that this gateway signs (status 403)"),
            (whole(403, error_of("?token=x.y.z is wrong")), "(status 403)"),
            (whole(500, error_of("a\x1b[31m")), "(status 500)"),
            (whole(500, error_of("a" * 3000)), "a…)"),
            (whole(500, b"[" * 4000), "(status 500)"),
            (whole(401, b"{}"), "status 401"),
            (b"HTTP/1.1 302 Found\r\nLocation: http://x.invalid/\r\nContent-Length: 0\r\n\r\n", "status 302"),
        ):
            self.assertIn(words, await self.failed(answer))
        self.assertIn("it closes the connection", await self.failed(b"", hangs_up=True))
        self.assertIn(
            "it closes the connection", await self.failed(whole(200, PROBE_BYTES)[:-3], hangs_up=True)
        )
        self.assertTrue(await self.failed(b"220 mail.example ESMTP\r\n", hangs_up=True))

    async def test_no_key(self) -> None:
        """Without a key no request is sent."""
        running: Any = reactor
        try:
            await HttpProbe(running, NOBODY, lambda: None)("http://127.0.0.1:1")
        except ProbeError as error:
            self.assertIn("no key", str(error))
        else:
            self.fail("nothing was asked, and that was a yes")

    async def test_no_tls(self) -> None:
        """A peer without TLS where it should have it is a fault in plain words."""
        try:
            await self.probe(b"HTTP/1.1 400 Bad Request\r\n\r\n", scheme="https", trust=UpstreamTrust(()))
        except ProbeError as error:
            self.assertIn("does not speak TLS as it should: ", str(error))
            self.assertNotIn("SSL routines", str(error))
        else:
            self.fail("plain HTTP was taken for TLS")

    async def test_nobody(self) -> None:
        """A refused connection is a fault in plain words."""
        running: Any = reactor
        try:
            await HttpProbe(running, NOBODY, lambda: TARGET)(f"http://127.0.0.1:{free_port()}")
        except ProbeError as error:
            self.assertIn("cannot be connected to", str(error))
        else:
            self.fail("nobody was taken for a cache")


class PatienceTests(SynchronousTestCase):
    """With a clock."""

    def test_too_slow(self) -> None:
        """A cache that sends nothing for five seconds is dead."""
        memory: Any = MemoryReactorClock()
        asking = Deferred.fromCoroutine(HttpProbe(memory, NOBODY, lambda: TARGET)("http://127.0.0.1:5000"))
        memory.advance(4.9)
        self.assertNoResult(asking)
        memory.advance(0.2)
        self.assertIn("within 5 s", str(self.failureResultOf(asking, ProbeError).value))
        self.assertIsInstance(memory, Clock)
