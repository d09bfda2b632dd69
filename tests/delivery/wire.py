"""The line to registries of bad manners, in memory: an agent under the real client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectError, ConnectionLost
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone, ResponseFailed, ResponseNeverReceived
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IResponse
from zope.interface import implementer

from tests.bad_registry import BadRegistry
from tests.misbehaviour import Asked, Reply

PIECE: Final = 16 << 10


@implementer(IAgent)
class Wire:
    """
    Leads to ``hosts`` (by ``host[:port]``), except to those that are ``down``. What takes time takes it on
    the clock. ``open`` are bodies of which nobody has taken the end yet, nor let go.
    """

    def __init__(self, hosts: Mapping[str, BadRegistry], clock: Clock) -> None:
        self.hosts = dict(hosts)
        self.down: set[str] = set()
        self.open: set[_Response] = set()
        self.given_up = 0
        self._clock = clock

    def request(
        self, method: bytes, uri: bytes, headers: Headers | None = None, bodyProducer: object = None
    ) -> Deferred[Any]:
        """Ask (``IAgent``)."""
        parts = urlsplit(uri.decode("ascii"))
        if parts.netloc in self.down:
            return fail(ConnectError())
        raw = () if headers is None else headers.getAllRawHeaders()
        named = {name.decode().lower(): b", ".join(values).decode() for name, values in raw}
        asked = Asked(method.decode(), unquote(parts.path), named, parts.query)
        registry = self.hosts[parts.netloc]
        reply = registry.answer(asked)
        answered: Deferred[Any] = Deferred(self._give_up)

        def go_on() -> None:
            if not answered.called:
                answered.callback(_Response(self, registry, asked, reply))

        if reply.cut is None or reply.cut[1] >= 0:
            if reply.delay:
                self._clock.callLater(reply.delay, go_on)
            else:
                go_on()
        elif reply.cut[0] == "stall":
            registry.waiting.append(go_on)
        else:
            answered.errback(ResponseNeverReceived([Failure(ConnectionLost())]))
        return answered

    def _give_up(self, _deferred: object) -> None:
        self.given_up += 1


@implementer(IResponse)
class _Response:
    """An answer, and the transport of its body."""

    version = (b"HTTP", 1, 1)
    phrase = b""
    request = None
    previousResponse = None

    def __init__(self, wire: Wire, registry: BadRegistry, asked: Asked, reply: Reply) -> None:
        self.code = reply.status
        pairs = {name: [value] for name, value in reply.headers.items()}
        self.headers = Headers(pairs)
        self.length: object = "unknown" if reply.length is None else reply.length
        self._wire = wire
        self._registry = registry
        self._reply = reply
        self._body = b"" if asked.method == "HEAD" else reply.body
        if asked.method == "HEAD":
            if reply.length is not None and not self.headers.hasHeader("Content-Length"):
                self.headers.setRawHeaders("Content-Length", [str(reply.length)])
            self.length = 0  # so says Twisted's client, whatever the head says
        self._cut = reply.cut if reply.cut is not None and 0 <= reply.cut[1] < len(self._body) else None
        self._stop = len(self._body) if self._cut is None else self._cut[1]
        self._sent = 0
        self._protocol: Protocol | None = None
        self._paused = False
        self._pumping = False
        if self._body:
            wire.open.add(self)

    def setPreviousResponse(self, response: object) -> None:
        """Nobody looks."""

    def deliverBody(self, protocol: Protocol) -> None:
        """Let it come (``IResponse``)."""
        assert self._protocol is None, "a body is delivered once"
        self._protocol = protocol
        protocol.makeConnection(self)
        self._pump()

    def pauseProducing(self) -> None:
        """Wait."""
        self._paused = True

    def resumeProducing(self) -> None:
        """Go on."""
        self._paused = False
        self._pump()

    def stopProducing(self) -> None:
        """Hang up."""
        self._lose(ResponseFailed([Failure(ConnectionLost())]))

    loseConnection = stopProducing

    def _pump(self) -> None:
        if self._pumping:
            return
        self._pumping = True
        while self._protocol is not None and not self._paused and self._sent < self._stop:
            piece = self._body[self._sent : min(self._sent + PIECE, self._stop)]
            self._sent += len(piece)
            self._protocol.dataReceived(piece)
        self._pumping = False
        if self._protocol is not None and not self._paused:
            self._finish()

    def _finish(self) -> None:
        cut, self._cut = self._cut, None
        if cut is not None and cut[0] == "stall":
            self._registry.waiting.append(self._go_on)
        elif self._reply.framing == "close" and (cut is None or cut[0] == "short"):
            self._lose(PotentialDataLoss())
        elif cut is not None:
            self._lose(ResponseFailed([Failure(ConnectionLost())]))
        elif self._sent == len(self._body):
            self._lose(ResponseDone())

    def _go_on(self) -> None:
        self._stop = len(self._body)
        self._pump()

    def _lose(self, reason: Exception) -> None:
        self._wire.open.discard(self)
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            protocol.connectionLost(Failure(reason))
