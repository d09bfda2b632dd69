"""A request whose head is complete, and what responds to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from attrs import frozen
from twisted.python.failure import Failure
from twisted.web.http import NO_BODY_CODES, Request
from twisted.web.http_headers import Headers

from contentcache.core.ranges import parse_length
from contentcache.core.response_end import COMPLETE, ResponseEnd
from contentcache.core.routes import Content, Referrers, Route, TaggedManifest, TagsList, kind_of
from contentcache.server.errors import NOSNIFF
from contentcache.server.framing import check_head
from contentcache.telemetry.request_ids import HEADER, NO_DOWNLOAD, Provenance, RequestTrace, new_id, sent_id
from contentcache.wire.sendfile import FileTransport

#: Status in the access log where the client disconnected before a response; nginx's number for it.
_CLIENT_CLOSED_REQUEST: Final = 499
_INTERNAL_SERVER_ERROR: Final = 500


class ServerRequest(Request):
    """
    A request whose head is complete since ``received_at``; ``first_byte_at`` is when the head of the response was
    sent, ``None`` before (monotonic seconds).
    """

    channel: Any = None
    method = uri = clientproto = b"-"
    received_at: float = 0.0
    first_byte_at: float | None = None
    #: Fields of the access log record, set while the request is answered.
    cache_status: str = "-"
    upstream: str = "-"
    kind: str = "other"
    repository: str = "-"
    digest: str = "-"
    #: The client's name, where it is known by more than its ``Basic`` credentials.
    user_name: str = ""
    #: How the response has ended.
    end: ResponseEnd = COMPLETE
    #: Bytes of body that are in the metrics.
    counted = 0
    #: See :meth:`identified`.
    trace: RequestTrace | None = None
    #: The client's address from a trusted proxy; empty where that of the connection counts.
    client_address: str = ""
    #: Whether the access log has its record.
    logged = False

    @property
    def sent_id(self) -> str | None:
        """The id that the client has sent, if it is usable."""
        fields = self.requestHeaders
        return sent_id(fields.getRawHeaders(b"X-Request-Id"), fields.getRawHeaders(b"traceparent"))

    @property
    def request_id(self) -> str:
        """The id by which the request is logged."""
        return self.identified().request_id

    def identified(self) -> RequestTrace:
        """The trace, with the client's own id, or one that is made now."""
        if self.trace is None:
            self.trace = RequestTrace(self.sent_id or new_id())
        return self.trace

    @property
    def provenance(self) -> Provenance:
        """That of the shared download that the request has subscribed to, if there is one."""
        return NO_DOWNLOAD if self.trace is None else self.trace.provenance

    @property
    def served_by(self) -> str:
        """The upstream host that the content or the error came from; "-" where it was stored."""
        if self.provenance.served_by != "-":
            return self.provenance.served_by
        is_hit = self.cache_status.startswith("contentcache; hit")
        return "-" if is_hit or self.trace is None else self.trace.answered_by

    def write(self, data: bytes) -> None:
        """Send a piece of the response; the first one sends the head too."""
        if not self.startedWriting:
            # Here, so that no kind of response can forget it.
            self.responseHeaders.setRawHeaders(NOSNIFF[0], NOSNIFF[1:])
            if self.channel is not None:
                self.first_byte_at = self.channel.factory.timer.seconds()
            self.responseHeaders.setRawHeaders(HEADER, [self.request_id])
        super().write(data)

    def process(self) -> None:
        """Start the response, with the headers that every response has by the configuration."""
        for name, values in self.channel.factory.extra.items():
            self.responseHeaders.setRawHeaders(name, list(values))
        self.channel.factory.responder.dispatch(self)

    def concerns(self, route: Route) -> None:
        """Tell the log and the metrics what is requested."""
        self.kind = kind_of(route)
        if isinstance(route, Content | TaggedManifest | TagsList | Referrers):
            self.repository = route.repository
        if isinstance(route, Content | Referrers):
            self.digest = str(route.digest)

    def was_not_stored(self) -> None:
        """Do not say in the log what the head said of a download that was to be stored, and was not."""
        self.cache_status = self.cache_status.removesuffix("; stored")

    @property
    def body_sent(self) -> int:
        """Bytes of body that have been sent so far, those of a running ``sendfile`` included."""
        transport = None if self.channel is None else self.channel.transport
        return self.sentLength + (transport.file_bytes_sent if isinstance(transport, FileTransport) else 0)

    @property
    def body_length(self) -> int | None:
        """The bytes of body that the response has by its head, ``None`` where that does not say."""
        if self.startedWriting and (self.method == b"HEAD" or self.code in NO_BODY_CODES):
            return 0
        (length,) = self.responseHeaders.getRawHeaders(b"Content-Length") or (None,)
        return None if length is None else parse_length(length.decode("latin-1"))

    def end_short(self, end: ResponseEnd) -> None:
        """
        End an incomplete response so that the client notices and can resume: everything written is sent, then
        FIN; never RST, and never a proper end.
        """
        channel = self.channel
        if channel is not None:
            self.end = end
            if not self.startedWriting:
                self.code = _INTERNAL_SERVER_ERROR  # nothing is sent at all
            try:
                channel.factory.log(self)
            finally:
                channel.end()

    def connectionLost(self, reason: Failure) -> None:
        """The client has disconnected, or was disconnected. May be called twice."""
        if self.channel is None:
            return
        if not self.startedWriting:
            self.code = _CLIENT_CLOSED_REQUEST
        if not self.logged:
            self.end = self.channel.lost_by
            self.sentLength = max(0, self.body_sent - self.channel.unsent)
        try:
            if self.content is not None:  # else its head was never complete
                self.channel.factory.log(self)
        finally:
            super().connectionLost(reason)


class BodyReader(Protocol):
    """Reads the body of a request that is being answered; then calls the channel's ``body_ended``."""

    def received(self, data: bytes, /) -> None:
        """A piece of the body, or its last one and what follows it."""


@frozen
class RequestResponder:
    """
    What responds to the requests of a listener.

    ``dispatch`` starts the response to a request; ``log_request`` gets the request when its response has ended.
    ``check_head`` gets method, version and fields, and raises a :class:`CacheError` for a head that must not be
    acted on. ``open_body`` makes the reader of a request's body, if it has one.
    """

    dispatch: Callable[[ServerRequest], None]
    log_request: Callable[[ServerRequest], None]
    request_class: type[ServerRequest] = ServerRequest
    check_head: Callable[[bytes, bytes, Headers], None] = check_head
    open_body: Callable[[ServerRequest], BodyReader | None] = lambda _request: None
