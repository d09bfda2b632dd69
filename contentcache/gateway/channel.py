"""
The server's side of a connection where bodies are taken: a request begins with its head, and its body
follows.

twisted.web would hold the body back in a temporary file first. Here it goes through a
:class:`contentcache.gateway.bodies.RequestBody` to whoever answers.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any, Final, cast

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.http import (
    Request,
    _ChunkedTransferDecoder,
    _IdentityTransferDecoder,
    _MalformedChunkedDataError,
)
from twisted.web.server import Request as ResourceRequest

from contentcache.core.errors import MethodUnsupported
from contentcache.gateway.bodies import RequestBody
from contentcache.gateway.faults import BodyMalformed, ClientGone
from contentcache.gateway.fields import check_fields
from contentcache.server.channel import ServerChannel, ServerRequest
from contentcache.server.factory import ServerFactory
from contentcache.server.framing import look_at_expectations, look_at_framing

_ALLOWED: Final = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class GatewayRequest(ServerRequest, ResourceRequest):
    """
    A request whose head has passed. ``body`` is what follows it, ``None`` for nothing.

    It can be given to a resource of ``twisted.web`` too, once ``content`` is filled.
    """

    body: RequestBody | None = None
    #: Passed answers get no content type that the registry did not give.
    defaultContentType = None

    def __init__(self, channel: Any, *args: Any) -> None:
        ResourceRequest.__init__(self, channel, *args, parsePOSTFormSubmission=False)

    def getClientAddress(self) -> IAddress:
        """The client's, as trusted proxies tell it: what sign-ins are counted by."""
        if not self.client_address:
            address: IAddress = super().getClientAddress()  # type: ignore[no-untyped-call]
            return address
        kind = IPv6Address if ":" in self.client_address else IPv4Address
        return cast("IAddress", kind("TCP", self.client_address, 0))

    def gotLength(self, length: int | None) -> None:  # noqa: ARG002
        self.content = BytesIO()

    def write(self, data: bytes) -> None:
        """Send a piece of the response; the first one takes the head with it."""
        if not self.startedWriting and self.body is not None and not self.body.complete:
            # The answer has overtaken the body. Who has been refused need not send the rest.
            self.responseHeaders.setRawHeaders("Connection", ["close"])
            self.channel.persistent = 0
        super().write(data)

    def connectionLost(self, reason: Failure) -> None:
        """The client has left, or is not waited for any longer. May be called twice."""
        super().connectionLost(reason)
        if self.body is not None:
            self.body.failed(ClientGone("the client has left"))


class GatewayChannel(ServerChannel):
    """
    HTTP/1.1, read as strictly as a cache reads it, with every method and with bodies.

    An answer that ends before its request's body has ended ends the connection too, gently.
    """

    requestFactory: type[ServerRequest] = GatewayRequest
    _body: RequestBody | None = None
    _decoder: Any = None

    def _look_at_head(self, request: ServerRequest) -> None:
        look_at_framing(self._version, request.requestHeaders)
        check_fields(request.requestHeaders)
        look_at_expectations(request.requestHeaders)
        if self._command in {b"TRACE", b"CONNECT"}:
            raise MethodUnsupported("this is a registry", headers={"Allow": _ALLOWED})

    def allHeadersReceived(self) -> None:
        super().allHeadersReceived()
        if self._over:
            return
        request = cast("GatewayRequest", self.requests[-1])
        fields = request.requestHeaders
        length = fields.getRawHeaders(b"Content-Length")
        if fields.hasHeader(b"Transfer-Encoding"):
            self._expect_body(request, None)
        elif length is not None and int(length[0]) > 0:
            self._expect_body(request, int(length[0]))

    def _expect_body(self, request: GatewayRequest, length: int | None) -> None:
        producer: Any = self._networkProducer
        limits = self.factory.limits
        body = RequestBody(producer, self.factory.timer, limits.clientstall, length)
        if length is None:
            self._decoder = _ChunkedTransferDecoder(body.received, self._body_ended)
        else:
            self._decoder = _IdentityTransferDecoder(length, body.received, self._body_ended)
        if request.requestHeaders.hasHeader(b"Expect") and self._version == b"HTTP/1.1":
            body.wanted = lambda: self._say_continue(request)
        self._body = request.body = body

    def _send100Continue(self) -> None:
        """Not yet: when somebody takes the body."""

    def _say_continue(self, request: GatewayRequest) -> None:
        if not (self._over or request.startedWriting):
            self.transport.write(_CONTINUE)

    def rawDataReceived(self, data: bytes) -> None:
        if self._body is None or self._over:
            super().rawDataReceived(data)
            return
        try:
            self._decoder.dataReceived(data)
        except _MalformedChunkedDataError:
            self._body.failed(BodyMalformed("the chunks of the request's body cannot be read"))

    def _body_ended(self, rest: bytes) -> None:
        body, self._body, self._decoder = self._body, None, None
        if body is not None:
            # So that we hear of a client that leaves, whoever has paused it.
            producer: Any = self._networkProducer
            producer.resumeProducing()
            if rest and not self._over:
                super().rawDataReceived(rest)
            body.ended()

    def requestDone(self, request: Request) -> None:
        if self._body is not None:
            self.persistent = 0
        super().requestDone(request)  # type: ignore[no-untyped-call]

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self._body = self._decoder = None


class GatewayFactory(ServerFactory):
    """Makes the channels of a gateway."""

    channels = GatewayChannel
