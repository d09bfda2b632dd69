"""
The server's side of a connection: what twisted.web does, with decisions made earlier and ends made softer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, cast

from twisted.internet.interfaces import IAddress, IHalfCloseableDescriptor
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, HTTPFactory, Request

from contentcache.config.model import Limits
from contentcache.core.errors import CacheError, Overloaded, RequestMalformed
from contentcache.core.ports import DelayedCall, Timer
from contentcache.meter import Meter
from contentcache.web.errors import as_response
from contentcache.web.heads import HeadTooLarge, HeadTooSlow, look_at

#: How long a connection that we have ended is read and thrown away, so that the client sees our last words
#: and not a reset.
_LINGER: Final = 2.0
#: What a request line, or the empty line that some clients send before one, can begin with.
_HEAD_BEGINS: Final = re.compile(rb"[A-Za-z\r\n]")


class RegistryRequest(Request):
    """
    A request whose head has passed. ``began`` is when it did, monotonic seconds.
    """

    began: float = 0.0
    #: Words for the access log, filled in while it is answered.
    cache_status: str = "-"
    upstream: str = "-"
    kind: str = "other"

    def process(self) -> None:
        """Answer."""
        self.channel.factory.begin(self)

    def end_short(self) -> None:
        """
        End the response before its end, so that the client notices and can go on where it stands: everything
        written goes out, then FIN; never RST, never a proper end.
        """
        channel = cast("RegistryChannel | None", self.channel)
        if channel is not None:
            channel.factory.log(self)
            channel.end()


class RegistryChannel(HTTPChannel):
    """
    HTTP/1.1, read strictly: obsolete folding, two framings at once and whatever else is in doubt end the
    connection (RFC 9112 §5.2, §6.1), and nothing that follows is acted on.
    """

    factory: RegistryFactory
    transport: Any
    #: The client's IP address.
    address: str = ""
    _over = False
    _head_timer: DelayedCall | None = None
    _linger: DelayedCall | None = None
    _handling = False

    def dataReceived(self, data: bytes) -> None:
        if self._over:
            return
        if self._head_timer is None and not self._handling:
            if _HEAD_BEGINS.match(data) is None:
                # A TLS client at a plain port, most often, that tries plain HTTP as soon as it is refused.
                self._refuse(RequestMalformed("this is not the beginning of an HTTP request"))
                return
            self._head_timer = self.factory.timer.callLater(
                self.factory.limits.headertime, self._refuse, HeadTooSlow("the request's head is too slow")
            )
        super().dataReceived(data)

    def lineReceived(self, line: bytes) -> None:
        if self._over:
            return
        if self._receivedHeaderSize + len(line) > self.totalHeadersSize:
            self._refuse(HeadTooLarge(f"a head has at most {self.totalHeadersSize} bytes here"))
            return
        if line[:1] in {b" ", b"\t"} or b"\n" in line or b"\r" in line:
            self._refuse(RequestMalformed("folded lines and bare line ends are not taken"))
            return
        super().lineReceived(line)

    def lineLengthExceeded(self, line: bytes) -> None:  # noqa: ARG002
        self._refuse(HeadTooLarge(f"a line has at most {self.MAX_LENGTH} bytes here"))

    def rawDataReceived(self, data: bytes) -> None:
        if not self._over:
            super().rawDataReceived(data)

    def allHeadersReceived(self) -> None:
        self._stop_head_timer()
        request = cast("RegistryRequest", self.requests[-1])
        request.began = self.factory.timer.seconds()
        try:
            look_at(self._command, self._version, request.requestHeaders)
        except CacheError as error:
            # So that the access log has a line for it.
            request.method, request.uri = self._command, cast("Any", self._path)
            request.clientproto = self._version
            request.code = error.status
            self._refuse(error)
            self.factory.log(request)
            return
        super().allHeadersReceived()

    def allContentReceived(self) -> None:
        if not self._over:
            self._handling = True
            super().allContentReceived()

    def requestDone(self, request: Request) -> None:
        self._handling = False
        super().requestDone(request)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._over = True
        self._stop_head_timer()
        if self._linger is not None and self._linger.active():
            self._linger.cancel()
        self.factory.closed(self)
        super().connectionLost(reason)

    def end(self) -> None:
        """
        Say no more: what is written goes out, then FIN; what comes in is thrown away for a moment.
        """
        if self._over:
            return
        self._over = True
        self._stop_head_timer()
        self.setTimeout(None)
        self._networkProducer.unregisterProducer()
        producer: Any = self._networkProducer
        producer.resumeProducing()
        transport = self.transport
        if IHalfCloseableDescriptor.providedBy(transport):
            transport.loseWriteConnection()
            self._linger = self.factory.timer.callLater(_LINGER, transport.loseConnection)
        else:
            # TLS has no half-closed state: its own farewell says that more was to come.
            transport.loseConnection()
        self._give_up_after(self.abortTimeout)

    def close_if_idle(self) -> None:
        """
        End a connection on which nothing is under way.
        """
        if not self.requests and not self._over:
            self.end()
        else:
            self.persistent = 0

    def _give_up_after(self, seconds: float) -> None:
        if self._abortingCall is None:
            self._abortingCall = self.callLater(seconds, self.forceAbortClient)

    def _refuse(self, error: CacheError) -> None:
        """
        Answer with ``error`` and end the connection.
        """
        if self._over:
            return
        if not self._handling:
            self.transport.write(as_response(error))
        self.end()

    def _respondToBadRequestAndDisconnect(self) -> None:
        self._refuse(RequestMalformed("this is not a request that can be understood"))

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None and self._head_timer.active():
            self._head_timer.cancel()
        self._head_timer = None


class _FullHouse(Protocol):
    """
    Says so, and goes.
    """

    def connectionMade(self) -> None:
        error = Overloaded("too many connections; try again soon", headers={"Retry-After": "5"})
        transport: Any = self.transport
        transport.write(as_response(error))
        transport.loseConnection()


class RegistryFactory(HTTPFactory):
    """
    Makes channels, counts them, and knows which are open.

    ``begin`` starts the answer to a request; ``written`` gets each request when its answer has ended.
    """

    noisy = False

    def __init__(
        self,
        begin: Callable[[RegistryRequest], None],
        written: Callable[[RegistryRequest], None],
        *,
        limits: Limits,
        reactor: Any,
        meter: Meter,
    ) -> None:
        super().__init__(timeout=limits.idle, reactor=reactor)
        self.begin = begin
        self.limits = limits
        self.timer: Timer = reactor
        self._written = written
        self._meter = meter
        self._channels: set[RegistryChannel] = set()
        self._addresses: Counter[str] = Counter()

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._channels)

    @property
    def busy(self) -> int:
        """On how many of them something is under way."""
        return sum(bool(channel.requests) for channel in self._channels)

    def buildProtocol(self, addr: IAddress | None) -> Any:
        host = getattr(addr, "host", "")
        most = self.limits.connectionsperaddress
        if len(self._channels) >= self.limits.connections or (
            most is not None and self._addresses[host] >= most
        ):
            self._meter.limited("connections")
            return _FullHouse()
        channel: Any = RegistryChannel()
        channel.factory = self
        channel.requestFactory = RegistryRequest
        channel.timeOut = self.timeOut
        channel.callLater = self.timer.callLater
        channel.MAX_LENGTH = channel.totalHeadersSize = self.limits.headers
        channel.address = host
        self._channels.add(channel)
        self._addresses[host] += 1
        return channel

    def closed(self, channel: RegistryChannel) -> None:
        """A connection is no more."""
        if channel in self._channels:
            self._channels.remove(channel)
            self._addresses[channel.address] -= 1
            if not self._addresses[channel.address]:
                del self._addresses[channel.address]

    def close_idle(self) -> None:
        """End the connections on which nothing is under way, the others after their answer."""
        for channel in list(self._channels):
            channel.close_if_idle()

    def cut(self) -> None:
        """End all connections now, with what is under way on them."""
        for channel in list(self._channels):
            channel.end()

    def log(self, request: Request) -> None:
        """A request has been answered."""
        self._written(cast("RegistryRequest", request))

    def startFactory(self) -> None:
        """Nothing: there is no log file, and no cached date for one."""

    def stopFactory(self) -> None:
        """Nothing."""
