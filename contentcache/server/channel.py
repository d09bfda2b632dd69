"""The server's side of a connection: twisted.web's, with heads checked early and orderly ends."""

from __future__ import annotations

import re
from collections.abc import Mapping
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
from contentcache.core.response_end import CLIENT_DISCONNECTED, SHUTDOWN, ResponseEnd
from contentcache.server.errors import error_response, serialize
from contentcache.server.framing import HeadTooLarge, HeadTooSlow, TargetTooLong, check_line
from contentcache.server.request import BodyReader, RequestResponder, ServerRequest
from contentcache.server.stall_timer import StallTimer
from contentcache.wire.sendfile import FileTransport, has_unsent, unsent_bytes

#: Seconds for which an ended connection is read and its input discarded: closed at once, with unread input, it
#: would be reset, and the client could lose the end of the response.
_LINGER: Final = 5.0
#: What a request line, or the empty line that some clients send before one, can begin with.
_HEAD_BEGINS: Final = re.compile(rb"[A-Za-z\r\n]")
_RETRY_SOON: Final = {"Retry-After": "5"}


class FastPath(Protocol):
    """Answers simple requests inside ``dataReceived``, without a :class:`ServerRequest`."""

    def answer(self, channel: ServerChannel, data: bytes) -> bytes:
        """Answer the complete, simple requests at the start of ``data``; returns what is left of it."""

    def flush(self) -> None:
        """Write the access log records of what has been answered."""


class ChannelFactory(Protocol):
    """What a channel needs of the factory that made it."""

    responder: RequestResponder
    limits: Limits
    timer: Timer
    fast_path: FastPath | None
    #: Headers of the configuration, for every response.
    extra: Mapping[str, tuple[str, ...]]
    #: Whether connections end after the request in progress.
    closing: bool

    def log(self, request: Request) -> None:
        """A response has ended."""

    def acquire_head(self, channel: ServerChannel) -> bool:
        """Count an incomplete request head; ``False`` if the client's address has too many of them."""

    def release_head(self, channel: ServerChannel) -> None:
        """Stop counting the head."""

    def closed(self, channel: ServerChannel) -> None:
        """The connection is closed."""


@implementer(IHalfCloseableProtocol)
class ServerChannel(HTTPChannel):
    """
    HTTP/1.1, read strictly: obsolete folding, two framings at once and every other ambiguity end the
    connection (RFC 9112 §5.2, §6.1), and nothing after them is acted on.

    A request is dispatched when its head is complete, before its body. ``address`` is the client's IP address;
    a ``turned_away`` connection is one over the limit: its first request gets 503 and is its last.
    """

    factory: ChannelFactory
    transport: Any
    requests: list[ServerRequest]
    #: What the fast path has parsed of this connection's headers.
    fast_path_headers: Any = None
    #: How the response in progress ends where the connection is lost: what ends connections here changes it first.
    lost_by: ResponseEnd = CLIENT_DISCONNECTED
    unsent = 0  # bytes that were written before the connection was lost, and will not be sent
    _ended = False
    _body: BodyReader | None = None
    _head_timer: DelayedCall | None = None
    _linger_timer: DelayedCall | None = None
    _stall_timer: StallTimer | None = None

    def __init__(self, factory: ChannelFactory, address: str, idle: float, *, turned_away: bool) -> None:
        super().__init__()
        self.factory = factory
        self.requestFactory = factory.responder.request_class
        self.address = address
        self.timeOut = cast("Any", idle)  # Twisted says int, and takes both
        self.MAX_LENGTH = self.totalHeadersSize = factory.limits.headers
        self._turned_away = turned_away

    def callLater(self, period: float, func: Any) -> Any:
        """Schedules Twisted's timeouts."""
        return self.factory.timer.callLater(period, func)

    @property
    def busy(self) -> bool:
        """Whether a request is being answered, or part of a response has not been sent."""
        return (self._handlingRequest and not self._ended) or has_unsent(self.transport)

    @property
    def is_idle(self) -> bool:
        """Whether no request and no response is in progress, and the next request may be answered."""
        active = self._ended or self._handlingRequest or self.requests or self._buffer
        return not (active or self._waitingForTransport or self._turned_away or self.factory.closing)

    # Receiving a head.

    def dataReceived(self, data: bytes) -> None:
        fast_path = self.factory.fast_path
        if fast_path is not None and self.is_idle:
            self.resetTimeout()
            data = fast_path.answer(self, data)
            if not data:
                if self._head_timer is not None:  # for an empty line that came before the request
                    self._end_head()
                return
        if not self._ended:
            super().dataReceived(data)
            self._check_incomplete_head()

    def occupy(self, body: Any) -> None:
        """
        Be busy with the rest of a response until :meth:`requestDone` is called with ``body``, which stands in
        for a request and needs its ``connectionLost``.
        """
        self._savedTimeOut = self.setTimeout(None)
        self._handlingRequest = True
        self.setRawMode()
        self.requests.append(body)

    def lineReceived(self, line: bytes) -> None:
        if self._ended:
            return
        try:
            check_line(line, is_first=not self.requests)
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
        return not self._ended and bool(super().headerReceived(line))

    def allHeadersReceived(self) -> None:
        self._end_head()
        request = self.requests[-1]
        request.received_at = self.factory.timer.seconds()
        try:
            if self._turned_away:
                raise Overloaded("too many connections; try again soon", headers=_RETRY_SOON)
            self.factory.responder.check_head(self._command, self._version, request.requestHeaders)
        except CacheError as error:
            self._refuse(error)
        else:
            super().allHeadersReceived()
            self._body = self.factory.responder.open_body(request)

    def _send100Continue(self) -> None:
        """Nothing: the reader of the body may send it."""

    def allContentReceived(self) -> None:
        if not self._ended:
            super().allContentReceived()

    def rawDataReceived(self, data: bytes) -> None:
        if self._ended:
            return
        if self._body is None:
            super().rawDataReceived(data)
        else:
            self._body.received(data)

    def body_ended(self, rest: bytes) -> None:
        """The body is complete; ``rest`` was received after it."""
        self._body = None
        # Only a connection that is read reports that the client disconnects.
        self.input.resumeProducing()
        if rest:
            self.rawDataReceived(rest)

    @property
    def input(self) -> Any:
        """The producer of what the client sends."""
        return self._networkProducer

    def checkPersistence(self, request: Request, version: bytes) -> bool:
        """Whether the connection persists after this request; all of ``Connection`` is read (RFC 9112 §9.3)."""
        fields = request.requestHeaders.getRawHeaders(b"Connection") or ()
        options = {option.strip().lower() for option in b",".join(fields).split(b",")}
        if version == b"HTTP/1.1" and b"close" not in options and not self.factory.closing:
            return True
        request.responseHeaders.setRawHeaders(b"Connection", [b"close"])
        return False

    def _maybeChooseTransferDecoder(self, header: bytes, data: bytes) -> bool:  # noqa: ARG002
        # The framing is checked when the head is complete.
        return True

    def _check_incomplete_head(self) -> None:
        """What has arrived of the next head must begin like one, and be complete before a deadline."""
        if self._ended or self._handlingRequest or not (self.requests or self._buffer):
            return
        if not self.requests and _HEAD_BEGINS.match(self._buffer) is None:
            # Most often a TLS client at a plain port, which tries plain HTTP as soon as it is refused.
            self._refuse(RequestMalformed("this is not the beginning of an HTTP request"))
        elif not self._turned_away and not self.factory.acquire_head(self):
            self._refuse(Overloaded("too many requests of this address have begun", headers=_RETRY_SOON))
        elif self._head_timer is None:
            self._head_timer = self.factory.timer.callLater(
                self.factory.limits.headertime, self._refuse, HeadTooSlow("the request's head is too slow")
            )

    def _refuse(self, error: CacheError) -> None:
        """Respond to the head, complete or not, with ``error``, and end the connection."""
        if self._ended:
            return
        request = self.requests[-1] if self.requests else self.factory.responder.request_class(self)
        if hasattr(self, "_command"):
            request.method, request.uri = self._command, cast("Any", self._path)
            request.clientproto = self._version
        request.received_at = request.received_at or self.factory.timer.seconds()
        response = error_response(error, request.request_id)
        is_head = request.method == b"HEAD"
        request.code, request.sentLength = response.status, 0 if is_head else len(response.body)
        request.responseHeaders.setRawHeaders(b"Content-Length", [b"%d" % request.sentLength])
        request.cache_status = first(response.headers, "Cache-Status") or "-"
        self.transport.write(serialize(response, is_head=is_head, extra=self.factory.extra))
        request.first_byte_at = self.factory.timer.seconds()
        self.factory.log(request)
        self.end()

    def _respondToBadRequestAndDisconnect(self) -> None:
        self._refuse(RequestMalformed("this is not a request that can be understood"))

    def _end_head(self) -> None:
        if self._head_timer is not None and self._head_timer.active():
            self._head_timer.cancel()
        self._head_timer = None
        self.factory.release_head(self)

    # Sending a response.

    def send_now(self, data: bytes) -> None:
        """Send a whole response."""
        transport = self.transport
        (transport.write_now if isinstance(transport, FileTransport) else transport.write)(data)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        super().registerProducer(producer, streaming)
        if self._waitingForTransport:
            # The response before is still in the transport's buffer, and the transport signals that only once.
            producer.pauseProducing()

    # Ending the connection.

    def end(self) -> None:
        """Send no more: what is written is sent, then FIN; input is discarded for a moment."""
        if self._ended:
            return
        self._stop()
        self.input.resumeProducing()
        transport = self.transport
        if IHalfCloseableDescriptor.providedBy(transport) and not self.isSecure():
            transport.loseWriteConnection()
        else:
            # TLS cannot be half-closed: after its close_notify it reads until the client sends its own.
            transport.loseConnection()

    def cut(self) -> None:
        """End now, for a shutdown; responses in progress end short."""
        self.lost_by = SHUTDOWN
        self.end()
        self._disconnect_requests(Failure(ConnectionAborted()))

    def abort_stalled(self) -> None:
        """The client has read nothing for too long: end without waiting for it."""
        self.lost_by = ResponseEnd("client", f"nothing read for {self.factory.limits.clientstall:g} s")
        self.forceAbortClient()

    def close_when_idle(self) -> None:
        """End now if no request has begun, else after its response."""
        if self._handlingRequest:
            self.persistent = 0
        elif not (self.requests or self._buffer):
            self.end()

    def loseConnection(self) -> None:
        self.end()

    timeoutConnection = loseConnection

    def writeConnectionLost(self) -> None:
        """Everything written has been sent, and FIN."""
        self._linger_timer = self.factory.timer.callLater(_LINGER, self.transport.loseConnection)

    def readConnectionLost(self) -> None:
        """The client has closed its side: it has disconnected, whatever it may still read."""
        if not self._ended:
            self._stop()
        self._disconnect_requests(Failure(ConnectionDone()))
        self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._ended = True
        self._body = None
        self.unsent = unsent_bytes(self.transport)
        self._end_head()
        if self._stall_timer is not None:
            self._stall_timer.stop()
        if self._linger_timer is not None and self._linger_timer.active():
            self._linger_timer.cancel()
        self.factory.closed(self)
        super().connectionLost(reason)

    def _stop(self) -> None:
        """Act on nothing more; what is written may be sent as long as the client reads."""
        self._ended = True
        self._end_head()
        self.setTimeout(None)
        self._networkProducer.unregisterProducer()
        self._stall_timer = StallTimer(
            self.transport, self.factory.timer, self.factory.limits.clientstall, self.abort_stalled
        )
        self._stall_timer.start()

    def _disconnect_requests(self, reason: Failure) -> None:
        for request in self.requests:
            request.connectionLost(reason)
