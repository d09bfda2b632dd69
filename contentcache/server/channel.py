"""The server's side of a connection: what twisted.web does, with decisions made earlier and ends made softer."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, cast

from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IHalfCloseableDescriptor, IHalfCloseableProtocol
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, Request
from zope.interface import implementer

from contentcache.config.model import Limits
from contentcache.core.errors import CacheError, Overloaded, RequestMalformed
from contentcache.core.header_policy import first
from contentcache.core.ports import DelayedCall, Timer
from contentcache.server.errors import NO_SNIFFING, as_answer, as_response
from contentcache.server.framing import HeadTooLarge, HeadTooSlow, TargetTooLong, look_at, look_at_line
from contentcache.server.stall_timer import Watch
from contentcache.wire.sendfile import FileTransport, has_unsent

#: How long a connection that we have ended is read and thrown away, so that the client sees our last words
#: and not a reset.
_LINGER: Final = 5.0
#: What a request line, or the empty line that some clients send before one, can begin with.
_HEAD_BEGINS: Final = re.compile(rb"[A-Za-z\r\n]")
_SOON: Final = {"Retry-After": "5"}
#: In the log, where a client has left before it got an answer; nginx's number for it.
_CLIENT_LEFT: Final = 499


class FastPath(Protocol):
    """Answers simple requests inside ``dataReceived``, without a :class:`ServerRequest`."""

    def answer(self, channel: ServerChannel, data: bytes) -> bytes:
        """Answer the complete, simple requests at the start of ``data``; returns what is left of it."""

    def flush(self) -> None:
        """Write the access log records of what has been answered."""


class ChannelFactory(Protocol):
    """What a channel needs of the factory that made it."""

    limits: Limits
    timer: Timer
    fast_path: FastPath | None
    #: Headers of the configuration, for every response.
    extra: Mapping[str, tuple[str, ...]]
    #: Whether connections end after the request in progress.
    closing: bool

    begin: Callable[[ServerRequest], None]

    def log(self, request: Request) -> None:
        """A response has ended."""

    def head_begins(self, channel: ServerChannel) -> bool:
        """Count an incomplete request head; ``False`` if the client's address has too many of them."""

    def head_ends(self, channel: ServerChannel) -> None:
        """Stop counting the head."""

    def closed(self, channel: ServerChannel) -> None:
        """The connection is closed."""


class ServerRequest(Request):
    """A request whose head has passed. ``began`` is when it did, monotonic seconds."""

    channel: Any = None
    method = uri = clientproto = b"-"
    began: float = 0.0
    #: Words for the access log, filled in while it is answered.
    cache_status: str = "-"
    upstream: str = "-"
    kind: str = "other"
    #: The client's address where a proxy has told it, else that of the connection counts.
    client_address: str = ""
    #: Whether the access log has its line.
    noted = False

    def write(self, data: bytes) -> None:
        """Send a piece of the response; the first one takes the head with it."""
        if not self.startedWriting:
            # Here, so that no way of answering can forget it.
            self.responseHeaders.setRawHeaders(NO_SNIFFING[0], NO_SNIFFING[1:])
        super().write(data)

    def process(self) -> None:
        """Answer, with what goes out with every answer."""
        for name, values in self.channel.factory.extra.items():
            self.responseHeaders.setRawHeaders(name, list(values))
        self.channel.factory.begin(self)

    def end_short(self) -> None:
        """
        End the response before its end, so that the client notices and can go on where it stands: everything
        written goes out, then FIN; never RST, never a proper end.
        """
        channel = self.channel
        if channel is not None:
            try:
                channel.factory.log(self)
            finally:
                channel.end()

    def connectionLost(self, reason: Failure) -> None:
        """The client has left, or is not waited for any longer. May be called twice."""
        if self.channel is None:
            return
        if not self.startedWriting:
            self.code = _CLIENT_LEFT
        try:
            if self.content is not None:  # else its head has never been whole
                self.channel.factory.log(self)
        finally:
            super().connectionLost(reason)


@implementer(IHalfCloseableProtocol)
class ServerChannel(HTTPChannel):
    """
    HTTP/1.1, read strictly: obsolete folding, two framings at once and whatever else is in doubt end the
    connection (RFC 9112 §5.2, §6.1), and nothing that follows is acted on.

    No body is ever taken, so none is ever waited for. ``address`` is the client's IP address; ``turned_away``
    says that it is a connection too many, whose first request is its last.
    """

    factory: ChannelFactory
    transport: Any
    requests: list[ServerRequest]
    requestFactory: type[ServerRequest] = ServerRequest
    #: What the fast path has parsed of this connection's headers.
    fast_path_headers: Any = None
    _over = False
    _head_timer: DelayedCall | None = None
    _linger: DelayedCall | None = None
    _watch: Watch | None = None

    def __init__(self, factory: ChannelFactory, address: str, idle: float, *, turned_away: bool) -> None:
        super().__init__()
        self.factory = factory
        self.address = address
        self.timeOut = cast("Any", idle)  # Twisted says int, and takes both
        self.MAX_LENGTH = self.totalHeadersSize = factory.limits.headers
        self._turned_away = turned_away

    def callLater(self, period: float, func: Any) -> Any:
        """What Twisted's timeouts are made with."""
        return self.factory.timer.callLater(period, func)

    @property
    def busy(self) -> bool:
        """Whether a request is being answered, or of an answer something is still here."""
        return (self._handlingRequest and not self._over) or has_unsent(self.transport)

    @property
    def is_free(self) -> bool:
        """Whether nothing is under way, neither of a request nor of an answer."""
        begun = self._over or self._handlingRequest or self.requests or self._buffer
        return not (begun or self._waitingForTransport or self._turned_away or self.factory.closing)

    # A head comes in.

    def dataReceived(self, data: bytes) -> None:
        fast_path = self.factory.fast_path
        if fast_path is not None and self.is_free:
            self.resetTimeout()
            data = fast_path.answer(self, data)
            if not data:
                if self._head_timer is not None:  # for an empty line that came before the request
                    self._stop_head_timer()
                    self.factory.head_ends(self)
                return
        if not self._over:
            super().dataReceived(data)
            self._look_at_beginning()

    def occupy(self, rest: Any) -> None:
        """
        Be busy with the rest of an answer until :meth:`requestDone` is called with it. It stands in the place
        of a request, of which it needs ``connectionLost``.
        """
        self._savedTimeOut = self.setTimeout(None)
        self._handlingRequest = True
        self.setRawMode()
        self.requests.append(rest)

    def lineReceived(self, line: bytes) -> None:
        if self._over:
            return
        try:
            look_at_line(line, is_first=not self.requests)
            if self._receivedHeaderSize + len(line) > self.totalHeadersSize:
                raise HeadTooLarge(f"a head has at most {self.totalHeadersSize} bytes here")
        except CacheError as error:
            self._refuse(error)
        else:
            super().lineReceived(line)

    def lineLengthExceeded(self, line: bytes) -> None:  # noqa: ARG002
        too_long = HeadTooLarge if self.requests else TargetTooLong
        self._refuse(too_long(f"a line has at most {self.MAX_LENGTH} bytes here"))

    def headerReceived(self, line: bytes) -> bool:
        if self._receivedHeaderCount >= self.maxHeaders:
            self._refuse(HeadTooLarge(f"a head has at most {self.maxHeaders} fields here"))
        return not self._over and bool(super().headerReceived(line))

    def allHeadersReceived(self) -> None:
        self._stop_head_timer()
        self.factory.head_ends(self)
        request = self.requests[-1]
        request.began = self.factory.timer.seconds()
        try:
            if self._turned_away:
                raise Overloaded("too many connections; try again soon", headers=_SOON)
            self._look_at_head(request)
        except CacheError as error:
            self._refuse(error)
        else:
            super().allHeadersReceived()

    def _look_at_head(self, request: ServerRequest) -> None:
        """Refuse a head that is not to be acted on."""
        look_at(self._command, self._version, request.requestHeaders)

    def allContentReceived(self) -> None:
        if not self._over:
            super().allContentReceived()

    def rawDataReceived(self, data: bytes) -> None:
        if not self._over:
            super().rawDataReceived(data)

    def checkPersistence(self, request: Request, version: bytes) -> bool:
        """Whether the connection outlives this request; all of ``Connection`` is read (RFC 9112 §9.3)."""
        fields = request.requestHeaders.getRawHeaders(b"Connection") or ()
        options = {option.strip().lower() for option in b",".join(fields).split(b",")}
        if version == b"HTTP/1.1" and b"close" not in options and not self.factory.closing:
            return True
        request.responseHeaders.setRawHeaders(b"Connection", [b"close"])
        return False

    def _maybeChooseTransferDecoder(self, header: bytes, data: bytes) -> bool:  # noqa: ARG002
        # What the head says of a body is looked at when all of it is there.
        return True

    def _look_at_beginning(self) -> None:
        """What has come of a next head must begin like one, and be whole before long."""
        if self._over or self._handlingRequest or not (self.requests or self._buffer):
            return
        if not self.requests and _HEAD_BEGINS.match(self._buffer) is None:
            # A TLS client at a plain port, most often, that tries plain HTTP as soon as it is refused.
            self._refuse(RequestMalformed("this is not the beginning of an HTTP request"))
        elif not self._turned_away and not self.factory.head_begins(self):
            self._refuse(Overloaded("too many requests of this address have begun", headers=_SOON))
        elif self._head_timer is None:
            self._head_timer = self.factory.timer.callLater(
                self.factory.limits.headertime, self._refuse, HeadTooSlow("the request's head is too slow")
            )

    def _refuse(self, error: CacheError) -> None:
        """Answer the head that comes in, whatever has come of it, with ``error``, and end the connection."""
        if self._over:
            return
        request = self.requests[-1] if self.requests else self.requestFactory(self)
        if hasattr(self, "_command"):
            request.method, request.uri = self._command, cast("Any", self._path)
            request.clientproto = self._version
        request.began = request.began or self.factory.timer.seconds()
        answer = as_answer(error)
        request.code, request.sentLength = answer.status, len(answer.body)
        request.cache_status = first(answer.headers, "Cache-Status") or "-"
        self.transport.write(as_response(answer, is_head=request.method == b"HEAD", extra=self.factory.extra))
        self.factory.log(request)
        self.end()

    def _respondToBadRequestAndDisconnect(self) -> None:
        self._refuse(RequestMalformed("this is not a request that can be understood"))

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None and self._head_timer.active():
            self._head_timer.cancel()
        self._head_timer = None

    # An answer goes out.

    def send_now(self, data: bytes) -> None:
        """Send a whole answer."""
        transport = self.transport
        (transport.write_now if isinstance(transport, FileTransport) else transport.write)(data)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        super().registerProducer(producer, streaming)
        if self._waitingForTransport:
            # The client has yet to take the answer before, and the transport says so only once.
            producer.pauseProducing()

    # The end.

    def end(self) -> None:
        """Say no more: what is written goes out, then FIN; what comes in is thrown away for a moment."""
        if self._over:
            return
        self._stop()
        producer: Any = self._networkProducer
        producer.resumeProducing()
        transport = self.transport
        if IHalfCloseableDescriptor.providedBy(transport) and not self.isSecure():
            transport.loseWriteConnection()
        else:
            # TLS has no half-closed state: its own farewell says that there is no more, and it goes on
            # to read until the client says the same.
            transport.loseConnection()

    def cut(self) -> None:
        """End now; what is under way ends short."""
        self.end()
        self._leave(Failure(ConnectionAborted()))

    def close_when_idle(self) -> None:
        """End now where no request has begun, else after its answer."""
        if self._handlingRequest:
            self.persistent = 0
        elif not (self.requests or self._buffer):
            self.end()

    def loseConnection(self) -> None:
        self.end()

    def timeoutConnection(self) -> None:
        self.end()

    def writeConnectionLost(self) -> None:
        """Everything is written, and FIN."""
        self._linger = self.factory.timer.callLater(_LINGER, self.transport.loseConnection)

    def readConnectionLost(self) -> None:
        """The client has closed its side: it has left, whatever it may still take of what is written."""
        if not self._over:
            self._stop()
        self._leave(Failure(ConnectionDone()))
        self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._over = True
        self._stop_head_timer()
        if self._watch is not None:
            self._watch.stop()
        if self._linger is not None and self._linger.active():
            self._linger.cancel()
        self.factory.closed(self)
        super().connectionLost(reason)

    def _stop(self) -> None:
        """Act on nothing more; what has been written has time as long as the client takes of it."""
        self._over = True
        self._stop_head_timer()
        self.factory.head_ends(self)
        self.setTimeout(None)
        self._networkProducer.unregisterProducer()
        self._watch = Watch(
            self.transport, self.factory.timer, self.factory.limits.clientstall, self.forceAbortClient
        )
        self._watch.start()

    def _leave(self, reason: Failure) -> None:
        for request in self.requests:
            request.connectionLost(reason)
