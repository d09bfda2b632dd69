"""
A client's connection to a gateway, and one request with its response.

A request is answered as soon as its head is complete, and its body follows. twisted.web would buffer the body in
a temporary file first. Here a :class:`contentcache.gateway.proxy_request.RequestBody` delivers it while it
arrives.
"""

from __future__ import annotations

from collections.abc import Iterable
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
    datetimeToString,
)
from twisted.web.server import Request as ResourceRequest

from contentcache.core.errors import LoopDetected, MethodUnsupported
from contentcache.core.header_policy import Headers
from contentcache.core.ports import Timer
from contentcache.core.via import ViaPath, append_via
from contentcache.gateway.errors import BodyMalformed, ClientDisconnected
from contentcache.gateway.header_rewriting import SANDBOX, check_fields
from contentcache.gateway.proxy_request import Field, RequestBody
from contentcache.server.channel import ServerChannel
from contentcache.server.errors import reason_phrase
from contentcache.server.exchange import Exchange
from contentcache.server.factory import ServerFactory
from contentcache.server.framing import check_expectations, check_framing
from contentcache.server.request import ServerRequest

_ALLOWED: Final = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class GatewayRequest(ServerRequest, ResourceRequest):
    """
    A request whose head was accepted. ``body`` is what follows it, ``None`` for nothing.

    A resource of ``twisted.web`` can answer it too, once ``content`` is filled.
    """

    body: RequestBody | None = None
    #: Forwarded responses get no content type that the registry did not send.
    defaultContentType = None

    def __init__(self, channel: Any, *args: Any) -> None:
        ResourceRequest.__init__(self, channel, *args, parsePOSTFormSubmission=False)

    def getClientAddress(self) -> IAddress:
        """The client's address as trusted proxies state it: sign-ins are counted by it."""
        if not self.client_address:
            address: IAddress = super().getClientAddress()  # type: ignore[no-untyped-call]
            return address
        kind = IPv6Address if ":" in self.client_address else IPv4Address
        return cast("IAddress", kind("TCP", self.client_address, 0))

    def gotLength(self, length: int | None) -> None:  # noqa: ARG002
        self.content = BytesIO()

    def write(self, data: bytes) -> None:
        """Send a piece of the response; the head is sent with the first one."""
        if not self.startedWriting and self.body is not None and not self.body.complete:
            # The response precedes the end of the body: a client that is refused need not send the rest.
            self.responseHeaders.setRawHeaders("Connection", ["close"])
            self.channel.persistent = 0
        super().write(data)

    def connectionLost(self, reason: Failure) -> None:
        """The client has disconnected, or has timed out. May be called twice."""
        super().connectionLost(reason)
        if self.body is not None:
            self.body.failed(ClientDisconnected("the client has left"))


class GatewayChannel(ServerChannel):
    """
    HTTP/1.1, parsed as strictly as at a cache, with every method and with bodies.

    A response that ends before its request's body closes the connection, gently.
    """

    requestFactory: type[ServerRequest] = GatewayRequest
    _body: RequestBody | None = None
    _decoder: Any = None

    def check_head(self, request: ServerRequest) -> None:
        check_framing(self._version, request.requestHeaders)
        check_fields(request.requestHeaders)
        check_expectations(request.requestHeaders)
        if self._command in {b"TRACE", b"CONNECT"}:
            raise MethodUnsupported("this is a registry", headers={"Allow": _ALLOWED})

    def allHeadersReceived(self) -> None:
        super().allHeadersReceived()
        if self._ended:
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
            body.on_delivery = lambda: self._send_continue(request)
        self._body = request.body = body

    def _send100Continue(self) -> None:
        """Not yet: only when the body has a receiver."""

    def _send_continue(self, request: GatewayRequest) -> None:
        if not (self._ended or request.startedWriting):
            self.transport.write(_CONTINUE)

    def rawDataReceived(self, data: bytes) -> None:
        if self._body is None or self._ended:
            super().rawDataReceived(data)
            return
        try:
            self._decoder.dataReceived(data)
        except _MalformedChunkedDataError:
            self._body.failed(BodyMalformed("the chunks of the request's body cannot be read"))

    def _body_ended(self, rest: bytes) -> None:
        body, self._body, self._decoder = self._body, None, None
        if body is not None:
            # Only a connection that is read reports that the client disconnects.
            producer: Any = self._networkProducer
            producer.resumeProducing()
            if rest and not self._ended:
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

    channel_class = GatewayChannel


class GatewayExchange(Exchange):
    """Reads a request with its body, and sends the registry's responses as they are."""

    def __init__(self, request: ServerRequest, timer: Timer, stall_timeout: float) -> None:
        super().__init__(request, timer, stall_timeout)
        assert isinstance(request, GatewayRequest)  # noqa: S101  # the factory makes no others
        self._request: GatewayRequest = request

    @property
    def request(self) -> GatewayRequest:
        """The request of twisted.web."""
        return self._request

    @property
    def body(self) -> RequestBody | None:
        """The body that follows the head, ``None`` where there is none."""
        return self._request.body

    def fields(self) -> list[Field]:
        """All fields of the head, in their order as far as it is known."""
        return [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, values in self._request.requestHeaders.getAllRawHeaders()
            for value in values
        ]

    def via(self, pseudonym: str) -> str:
        """
        Return the ``Via`` to send to the registry behind; ``pseudonym`` names this gateway.

        :raises LoopDetected: the request has passed this gateway before.
        """
        values = self.values("Via")
        if ViaPath.of(values).contains(pseudonym):
            raise LoopDetected("this request has been here: the registry behind leads back to its gateway")
        return append_via(values, pseudonym)

    def start(self, status: int, headers: Headers) -> None:
        """
        Send the head of a response of the gateway's own, in which nothing may run: browsers see its pages under
        the same name.
        """
        super().start(status, {**headers, **SANDBOX})

    def start_as_is(self, status: int, fields: Iterable[Field], cache_status: str) -> None:
        """Send a head with these fields, several of one name included; ``cache_status`` is for the access log."""
        request = self._request
        request.setResponseCode(status, reason_phrase(status).encode("ascii"))
        request.cache_status = cache_status
        named: dict[str, list[bytes]] = {}
        spelt: dict[str, bytes] = {}
        for name, value in fields:
            # Byte by byte, as the registry has sent them: not all registries write UTF-8.
            named.setdefault(name.lower(), []).append(value.encode("latin-1"))
            spelt.setdefault(name.lower(), name.encode("latin-1"))
        for key, values in named.items():
            request.responseHeaders.setRawHeaders(spelt[key], values)
        if "date" not in named:
            request.responseHeaders.setRawHeaders("Date", [datetimeToString()])
        request.write(b"")
