"""One request and its response."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from urllib.parse import parse_qs

from twisted.internet.interfaces import IPushProducer
from twisted.web.http import datetimeToString
from zope.interface import implementer

from contentcache.aio.condition import Condition
from contentcache.core.errors import CacheError, OriginRefused, RequestMalformed
from contentcache.core.header_policy import Headers, first, lines_of
from contentcache.core.ports import Timer
from contentcache.core.response_end import ResponseEnd
from contentcache.core.routes import split_target
from contentcache.server.errors import REGISTRY_HEADERS, error_response, reason_phrase
from contentcache.server.public_name import Caller, PublicName
from contentcache.server.request import ServerRequest
from contentcache.server.stall_timer import StallTimer
from contentcache.telemetry.request_ids import usable_id
from contentcache.wire.sendfile import can_send_files

_MOST_PARAMETERS: Final = 32
#: ``Cache-Status`` of a response that says nothing of a hit or a miss (RFC 9211 §2).
_CACHE_STATUS: Final = "contentcache"


@implementer(IPushProducer)
class Exchange:
    """
    Reads a request, writes its response, and follows how fast the client reads it.

    A client that reads nothing for ``stall_timeout`` seconds is disconnected.
    """

    def __init__(self, request: ServerRequest, timer: Timer, stall_timeout: float) -> None:
        self._request = request
        channel = request.channel
        self._stall_timer = StallTimer(channel.transport, timer, stall_timeout, channel.abort_stalled)
        self._paused = False
        self._condition = Condition()
        self._streaming = False
        #: Makes the ``Via`` of the response, where it has one.
        self.response_via: Callable[[], str] | None = None
        self.method: str = request.method.decode("latin-1")
        self.path, self._query, authority = split_target(request.uri.decode("latin-1"))
        self.host = (authority or self.header("Host") or "").lower()
        #: The client: by the connection, and after :meth:`identify_caller` by trusted proxies too.
        self.caller = Caller(getattr(channel, "address", ""), self.host, "")

    # The request.

    @property
    def request(self) -> ServerRequest:
        """Twisted's request, which holds the fields of the access log too."""
        return self._request

    def header(self, name: str) -> str | None:
        """The value of a header; several values are joined (RFC 9110 §5.3)."""
        values = self.values(name)
        return ", ".join(values) if values else None

    def values(self, name: str) -> tuple[str, ...]:
        """All values of a header."""
        found = self._request.requestHeaders.getRawHeaders(name.encode("ascii")) or ()
        return tuple(value.decode("latin-1") for value in found)

    def use_request_id(self, request_id: str | None) -> None:
        """Take over the id by which the origin has logged the request, unless the client has sent its own."""
        if usable_id(request_id) and self._request.sent_id is None:
            self._request.identified().request_id = str(request_id)

    def identify_caller(self, name: PublicName) -> None:
        """Set :attr:`caller` and :attr:`host` by what trusted proxies say of the client."""
        self.caller = name.caller(
            self.caller.address,
            self.host,
            forwarded_for=self.values("X-Forwarded-For"),
            forwarded_proto=self.header("X-Forwarded-Proto"),
            forwarded_host=self.header("X-Forwarded-Host"),
        )
        self.host = self.caller.host
        self._request.client_address = self.caller.address

    @property
    def raw_query(self) -> str:
        """The raw query, without its question mark."""
        return self._query

    def tokens(self) -> tuple[str, ...]:
        """
        The tokens of a signed URL: one, in a URL of a registry. What is not UTF-8 in them is replaced.

        :raises RequestMalformed: the query has too many parameters.
        """
        return tuple(self.query(lenient=True).get("token", ()))

    def query(self, *, lenient: bool = False) -> dict[str, list[str]]:
        """
        The decoded query. With ``lenient``, what is not UTF-8 is replaced.

        :raises RequestMalformed: it is not UTF-8, or has too many parameters.
        """
        try:
            return parse_qs(
                self._query,
                keep_blank_values=True,
                max_num_fields=_MOST_PARAMETERS,
                errors="replace" if lenient else "strict",
            )
        except ValueError as error:
            raise RequestMalformed("the query cannot be read") from error

    # The response.

    @property
    def started(self) -> bool:
        """Whether the head of the response has been sent."""
        return bool(self._request.startedWriting)

    @property
    def disconnected(self) -> bool:
        """Whether the client has disconnected."""
        return self._request.channel is None

    def start(self, status: int, headers: Headers) -> None:
        """Send the head, at once."""
        request = self._request
        request.setResponseCode(status, reason_phrase(status).encode("ascii"))
        request.cache_status = first(headers, "Cache-Status") or _CACHE_STATUS
        fields = request.responseHeaders
        fields.setRawHeaders("Date", [datetimeToString()])
        for name, value in REGISTRY_HEADERS.items():
            fields.setRawHeaders(name, [value])
        fields.setRawHeaders("Cache-Status", [request.cache_status])
        if self.response_via is not None:
            fields.setRawHeaders("Via", [self.response_via()])
        for name, values in headers.items():
            # Unchanged: bytes of an origin that are not ASCII were read as latin-1.
            lines = [line.encode("latin-1", "replace") for line in lines_of(values)]
            fields.setRawHeaders(name.encode("ascii"), lines)
        request.write(b"")

    def reply(self, status: int, headers: Headers, body: bytes = b"") -> None:
        """Send a whole response. ``HEAD`` gets the same head and no body."""
        length = {} if status in {204, 304} else {"Content-Length": str(len(body))}
        self.start(status, {**length, **headers})
        if body:
            self._request.write(body)
        self.finish()

    def fail(self, error: CacheError) -> None:
        """Send an error, or end short if the response has started. A client that has disconnected gets neither."""
        if self.disconnected:
            return
        if self.started:
            self._stop_streaming()
            self._request.end_short(ResponseEnd.of(error))
            return
        response = error_response(error, self._request.request_id)
        if self.method == "HEAD" and isinstance(error, OriginRefused) and not error.body:
            # The origin's body was not asked for, so its length is not known.
            self.start(response.status, response.headers)
            self.finish()
            return
        self.reply(response.status, response.headers, response.body)

    def write(self, data: bytes) -> None:
        """Send a piece of the body."""
        self._request.write(data)

    def finish(self) -> None:
        """The response is complete."""
        self._stop_streaming()
        if not self.disconnected:
            self._request.finish()

    # Back-pressure.

    def start_streaming(self) -> None:
        """Register as the producer of the body."""
        # True: a push producer. The transport calls pauseProducing() once its buffer is full, and
        # resumeProducing() once it is empty; nothing of ours runs in between.
        self._streaming = True
        self._request.registerProducer(self, True)

    async def ready(self) -> None:
        """Wait until the client reads more."""
        while self._paused:
            await self._condition.wait()

    def can_send_files(self) -> bool:
        """Whether the body can be sent straight from a file."""
        request = self._request
        return (
            not request.chunked and request.channel is not None and can_send_files(request.channel.transport)
        )

    async def send_file(self, descriptor: int, start: int, stop: int) -> int:
        """Send a piece of the body from an open file whose pages are in memory; returns the bytes sent."""
        self._stall_timer.start()
        try:
            sent: int = await self._request.channel.transport.send_file(descriptor, start, stop)
        finally:
            self._stall_timer.stop()
        self._request.sentLength += sent
        return sent

    async def send_by_pool(self, descriptor: int, start: int, stop: int) -> int:
        """
        Send a piece of the body in a thread, as long as the client keeps up; returns how many bytes were sent:
        0 where no thread is free or the client is not fast.
        """
        transport = self._request.channel.transport
        if not transport.may_use_pool():
            return 0
        sent: int = await transport.send_by_pool(descriptor, start, stop)
        self._request.sentLength += sent
        return sent

    def pauseProducing(self) -> None:
        # A client that reads nothing does not notice how this ends: the timer may abort the connection.
        self._paused = True
        self._stall_timer.start()

    def resumeProducing(self) -> None:
        self._paused = False
        self._stall_timer.stop()
        self._condition.notify_all()

    def stopProducing(self) -> None:
        """The connection is lost, which cancels the response."""
        self._stall_timer.stop()

    def release(self) -> None:
        """The response has ended, complete or not."""
        self._stop_streaming()

    def _stop_streaming(self) -> None:
        self._stall_timer.stop()
        if self._streaming and not self.disconnected:
            self._streaming = False
            self._request.unregisterProducer()
