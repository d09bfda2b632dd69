"""Responses and answers that nobody refers to any more."""

from __future__ import annotations

import contextlib
import gc
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock, deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from contentcache.aio.fair_semaphore import SemaphorePerKey
from contentcache.config.model import Upstream
from contentcache.core.credentials import ANONYMOUS
from contentcache.core.errors import UpstreamBroken
from contentcache.core.live import Live
from contentcache.telemetry.metrics import Meter
from contentcache.upstream.inflow import Inflow
from contentcache.upstream.redirects import RedirectRefused
from contentcache.upstream.registry import Registry
from contentcache.upstream.request import Request, UpstreamLimits
from contentcache.upstream.responses import OwnedResponse, release_with
from tests.delivery.in_memory import registry_of
from tests.upstream.loopback import LoopbackTestCase
from tests.upstream.test_registry import ONE, RegistryTestCase


class _Body:
    """A response's body, and its transport."""

    def __init__(self) -> None:
        self.stopped = 0
        self.delivered = 0

    def deliverBody(self, protocol: Any) -> None:
        self.delivered += 1
        protocol.makeConnection(self)

    def stopProducing(self) -> None:
        self.stopped += 1


@implementer(IReactorFromThreads)
class _OtherThread(Clock):
    """A reactor that runs elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.called: list[Any] = []

    def callFromThread(self, call: Any, *_given: Any) -> None:
        self.called.append(call)


class OwnedResponseTests(SynchronousTestCase):
    """Who stops a body."""

    def test_dropped(self) -> None:
        """A body that nobody has taken is stopped as the last reference to its response goes."""
        body = _Body()
        response = OwnedResponse(body, Clock())
        self.assertEqual(body.stopped, 0)
        del response
        gc.collect()
        self.assertEqual((body.delivered, body.stopped), (1, 1))

    def test_taken(self) -> None:
        """A body that somebody reads goes on without its response."""
        body = _Body()
        response = OwnedResponse(body, Clock())
        response.deliverBody(Protocol())
        del response
        gc.collect()
        self.assertEqual((body.delivered, body.stopped), (1, 0))

    def test_in_a_cycle(self) -> None:
        """So is one whose code has raised, with the traceback that refers to itself."""
        body = _Body()

        def fail() -> Exception:
            response = OwnedResponse(body, Clock())
            try:
                int(repr(response))
            except ValueError as error:
                return error
            raise AssertionError

        error = fail()
        error.args = (error,)
        del error
        gc.collect()
        self.assertEqual(body.stopped, 1)

    def test_other_thread(self) -> None:
        """What is collected in another thread is released in the reactor's."""
        clock, released = _OtherThread(), []
        owner = _Body()
        release_with(owner, lambda: released.append(1), clock)
        self.patch(
            __import__("twisted.python.threadable", fromlist=["ioThread"]), "isInIOThread", lambda: False
        )
        del owner
        gc.collect()
        self.assertEqual(released, [])
        clock.called[0]()
        self.assertEqual(released, [1])


class DroppedAnswerTests(RegistryTestCase):
    """Answers that code loses, whatever it raises."""

    def test_permit(self) -> None:
        """An answer that is lost releases its permit, and its body is stopped."""
        self.registry = registry_of(
            Upstream(ONE, (ONE,)), self.wire, self.clock, lambda: 1e9, SemaphorePerKey(1)
        )
        for _ in range(3):
            answer = self.successResultOf(self.ask())
            waiting = self.ask()
            self.assertNoResult(waiting)
            del answer
            gc.collect()
            self.successResultOf(waiting).abandon()
        self.assertEqual(self.wire.open, set())

    def test_defect_in_what_reads(self) -> None:
        """What raises while it takes bytes ends the body with that error, and nothing else."""
        transport = _Body()
        clock = Clock()

        def received(_inflow: Inflow, _data: bytes) -> None:
            raise ZeroDivisionError

        inflow = Inflow(received, clock, 10.0)
        inflow.makeConnection(transport)
        inflow.dataReceived(b"x")
        self.failureResultOf(inflow.ended, ZeroDivisionError)
        self.assertEqual((transport.stopped, clock.getDelayedCalls()), (1, []))


class _Sends(Protocol):
    """Answers everything with a head and not the whole body, and tells how many connections are open."""

    factory: Any
    transport: Any

    def connectionMade(self) -> None:
        self.factory.open += 1

    def dataReceived(self, data: bytes) -> None:
        if data.endswith(b"\r\n\r\n"):
            self.transport.write(self.factory.head + b"Content-Length: 100000\r\n\r\nx")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.factory.open -= 1
        if self.factory.open == 0 and self.factory.closed is not None:
            closed, self.factory.closed = self.factory.closed, None
            closed.callback(None)


class ConnectionTests(LoopbackTestCase):
    """Real connections to an upstream whose answers go on."""

    def upstream(self, head: bytes) -> Registry:
        """A registry that answers so."""
        server: Any = Factory.forProtocol(_Sends)
        self.server = server
        self.server.noisy = False
        self.server.open = 0
        self.server.head = head
        self.server.closed = Deferred()
        url = f"http://127.0.0.1:{self.listen(self.server)}"
        return Registry(
            Upstream(url, (url,)),
            {url: self.transport(url)},
            reactor=reactor,
            wall=lambda: 0.0,
            secret=b"",
            limits=Live(UpstreamLimits(10.0, 1000)),
            meter=Meter(),
        )

    async def until_closed(self) -> None:
        """All connections are closed, which the test's timeout bounds."""
        # What runs now has been called by those who had the response: they end first.
        await deferLater(reactor, 0.0, gc.collect)
        if self.server.open:
            await self.server.closed

    async def test_lost_answer(self) -> None:
        """The connection of an answer that is lost is closed."""
        registry = self.upstream(b"HTTP/1.1 200 OK\r\n")
        answer = await registry.ask(Request("GET", "/v2/a/blobs/b", registry.subject("a", ANONYMOUS)))
        self.assertEqual((answer.status, self.server.open), (200, 1))
        del answer
        await self.until_closed()

    async def test_no_response(self) -> None:
        """What is no response in HTTP is called so, in words, also where the parser raises errors of Python."""
        for head in (
            b"SSH-2.0-x\r\n",
            b"HTTP/1.1 abc OK\r\n",
            b"HTTP/1 200 OK\r\n",
            b"HTTP/1.1 200 OK\r\nno colon\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: x\r\n",
        ):
            registry = self.upstream(head)
            with self.subTest(head=head):
                with self.assertRaisesRegex(UpstreamBroken, r"^http://\S+ sent no valid HTTP response$"):
                    await registry.ask(Request("GET", "/v2/a/blobs/b", registry.subject("a", ANONYMOUS)))
                (host,) = registry.upstream_health.hosts()
                self.assertIn("sent no valid HTTP response", host.reason or "")
                registry.upstream_health.failed_again(host.host, "the storage behind it answered 403")
                (later,) = registry.upstream_health.hosts()
                self.assertEqual(
                    (later.reason, later.since), ("the storage behind it answered 403", host.since)
                )
            await self.until_closed()

    async def test_refused_redirect(self) -> None:
        """So is that of a redirect which is an answer of its own, and leads where nobody may go."""
        for location in (b"ftp://a", b"http://10.0.0.1/"):
            registry = self.upstream(b"HTTP/1.1 307 Moved\r\nLocation: " + location + b"\r\n")
            with contextlib.suppress(RedirectRefused):
                await registry.ask(
                    Request("GET", "/v2/a/blobs/b", registry.subject("a", ANONYMOUS), follow=False)
                )
            await self.until_closed()

    async def test_not_utf8(self) -> None:
        """A header that is not UTF-8 is read as latin-1, and nothing is left open."""
        registry = self.upstream(b"HTTP/1.1 200 OK\r\nContent-Type: \xff\xfe\r\nVia: 1.1 \xff\r\n")
        answer = await registry.ask(
            Request("GET", "/v2/a/blobs/b", registry.subject("a", ANONYMOUS), via="1.1 me")
        )
        self.assertEqual(answer.header("Content-Type"), "\xff\xfe")
        self.assertEqual(answer.values("Via"), ("1.1 \xff",))
        del answer
        await self.until_closed()

    async def test_token_server(self) -> None:
        """And that of a token server that refuses, or whose answer is too large."""
        for status in (b"403 Forbidden", b"200 OK"):
            registry = self.upstream(b"HTTP/1.1 " + status + b"\r\n")
            (url,) = registry.upstream.hosts
            fetching = Deferred.fromCoroutine(registry.client.fetch_token(f"{url}/token", {}))
            fetching.addErrback(lambda failure: failure.trap(UpstreamBroken))
            if status.startswith(b"200"):
                deferLater(reactor, 0.0, fetching.cancel)
                fetching.addErrback(lambda _failure: None)
            await fetching
            await self.until_closed()
