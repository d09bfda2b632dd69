"""
One request of a client to a gateway, with its body, and the response.

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
from twisted.python.failure import Failure
from twisted.web.http import (
    _ChunkedTransferDecoder,
    _IdentityTransferDecoder,
    _MalformedChunkedDataError,
    datetimeToString,
)
from twisted.web.http_headers import Headers as HeaderFields
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


def check_proxied_head(method: bytes, version: bytes, fields: HeaderFields) -> None:
    """
    Check the head of a request with any method, and perhaps a body.

    :raises CacheError: ambiguous framing or fields, as at a cache, or a method that no registry has.
    """
    check_framing(version, fields)
    check_fields(fields)
    check_expectations(fields)
    if method in {b"TRACE", b"CONNECT"}:
        raise MethodUnsupported("this is a registry", headers={"Allow": _ALLOWED})


class ProxiedBodyReader:
    """Decodes a request's body while it arrives."""

    def __init__(self, request: GatewayRequest, length: int | None) -> None:
        channel: ServerChannel = request.channel
        factory = channel.factory
        self._channel = channel
        self._request = request
        self._body = RequestBody(channel.input, factory.timer, factory.limits.clientstall, length)
        if length is None:
            self._decoder: Any = _ChunkedTransferDecoder(self._body.received, self._ended)
        else:
            self._decoder = _IdentityTransferDecoder(length, self._body.received, self._ended)
        if request.requestHeaders.hasHeader(b"Expect"):
            self._body.on_delivery = self._send_continue
        request.body = self._body

    @classmethod
    def open(cls, request: ServerRequest) -> ProxiedBodyReader | None:
        """The reader of a request's body; ``None`` where it has none."""
        assert isinstance(request, GatewayRequest)  # noqa: S101  # the factory makes no others
        fields = request.requestHeaders
        length = fields.getRawHeaders(b"Content-Length")
        if fields.hasHeader(b"Transfer-Encoding"):
            return cls(request, None)
        if length is not None and int(length[0]) > 0:
            return cls(request, int(length[0]))
        return None

    def received(self, data: bytes) -> None:
        """A piece of the body has arrived."""
        try:
            self._decoder.dataReceived(data)
        except _MalformedChunkedDataError:
            self._body.failed(BodyMalformed("the chunks of the request's body cannot be read"))

    def _send_continue(self) -> None:
        request = self._request
        if request.channel is not None and not request.startedWriting and request.clientproto == b"HTTP/1.1":
            self._channel.transport.write(_CONTINUE)

    def _ended(self, rest: bytes) -> None:
        self._channel.body_ended(rest)
        self._body.ended()


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
