"""One request and its response at a gateway."""

from __future__ import annotations

from collections.abc import Iterable

from twisted.web.http import datetimeToString

from contentcache.core.errors import LoopDetected
from contentcache.core.header_policy import Headers
from contentcache.core.ports import Timer
from contentcache.core.via import Path, added
from contentcache.gateway.channel import GatewayRequest
from contentcache.gateway.isolation import SANDBOX
from contentcache.gateway.proxy_request import Field, RequestBody
from contentcache.server.errors import reason_phrase
from contentcache.server.exchange import Exchange
from contentcache.server.request import ServerRequest


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
        if Path.of(values).has_met(pseudonym):
            raise LoopDetected("this request has been here: the registry behind leads back to its gateway")
        return added(values, pseudonym)

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
