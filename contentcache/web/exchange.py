"""
One request and its response, in the terms of the registry.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qs

from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from contentcache.core.errors import CacheError, RequestMalformed
from contentcache.core.ports import DelayedCall, Timer
from contentcache.core.routes import split_target
from contentcache.delivery.tasks import Bell
from contentcache.web.channel import RegistryRequest
from contentcache.web.errors import API_VERSION, as_answer

_MOST_PARAMETERS: Final = 32
#: ``struct tcp_info`` of Linux: ``tcpi_bytes_acked`` (since 4.1), 8 bytes at this offset.
_BYTES_ACKED: Final = struct.Struct("=Q")
_BYTES_ACKED_AT: Final = 120


@implementer(IPushProducer)
class Exchange:
    """
    Reads a request, writes its response, and knows how fast the client takes it.

    ``patience`` is for how many seconds a client may take nothing.
    """

    def __init__(self, request: RegistryRequest, timer: Timer, patience: float) -> None:
        self._request = request
        self._timer = timer
        self._patience = patience
        self._paused = False
        self._bell = Bell()
        self._watch: DelayedCall | None = None
        self._acked = 0
        self._streaming = False
        self.method: str = request.method.decode("latin-1")
        self.path, self._query, authority = split_target(request.uri.decode("latin-1"))
        self.host = (authority or self.header("Host") or "").lower()

    # The request.

    @property
    def request(self) -> RegistryRequest:
        """Twisted's own, for the log."""
        return self._request

    def header(self, name: str) -> str | None:
        """
        The value of a header; several are joined (RFC 9110 §5.3).
        """
        values = self.values(name)
        return ", ".join(values) if values else None

    def values(self, name: str) -> tuple[str, ...]:
        """
        All values of a header.
        """
        found = self._request.requestHeaders.getRawHeaders(name.encode("ascii")) or ()
        return tuple(value.decode("latin-1") for value in found)

    def query(self) -> dict[str, list[str]]:
        """
        The decoded query.

        :raises RequestMalformed: it is not UTF-8, or has too many parameters.
        """
        try:
            return parse_qs(
                self._query, keep_blank_values=True, max_num_fields=_MOST_PARAMETERS, errors="strict"
            )
        except ValueError as error:
            raise RequestMalformed("the query cannot be read") from error

    # The response.

    @property
    def started(self) -> bool:
        """Whether the head of the response has gone out."""
        return bool(self._request.startedWriting)

    def start(self, status: int, headers: Mapping[str, str]) -> None:
        """
        Send the head, at once.
        """
        request = self._request
        request.setResponseCode(status)
        fields = request.responseHeaders
        fields.removeHeader(b"Content-Type")
        fields.setRawHeaders("Docker-Distribution-Api-Version", [API_VERSION])
        for name, value in headers.items():
            fields.setRawHeaders(name, [value])
        request.cache_status = headers.get("Cache-Status", request.cache_status)
        request.write(b"")

    def reply(self, status: int, headers: Mapping[str, str], body: bytes = b"") -> None:
        """
        Send a whole response that is at hand. ``HEAD`` gets the same head and no body.
        """
        length = {} if status in {204, 304} else {"Content-Length": str(len(body))}
        self.start(status, {**length, **headers})
        if body:
            self._request.write(body)
        self.finish()

    def fail(self, error: CacheError) -> None:
        """
        Send an error, or end short if it is too late for one.
        """
        if self.started:
            self.end_short()
            return
        answer = as_answer(error)
        self.reply(answer.status, answer.headers, answer.body)

    def write(self, data: bytes) -> None:
        """
        Send a piece of the body.
        """
        self._request.write(data)

    def finish(self) -> None:
        """
        The response is whole.
        """
        self._stop_streaming()
        self._request.finish()

    def end_short(self) -> None:
        """
        The response ends before its end.
        """
        self._stop_streaming()
        self._request.end_short()

    # How fast the client takes it.

    def stream(self) -> None:
        """
        Be told by the transport when to pause.
        """
        # True: a push producer. The transport then calls pauseProducing() once its buffer is full, and
        # resumeProducing() once it is empty, and nothing of ours runs in between.
        self._streaming = True
        self._request.registerProducer(self, True)

    async def ready(self) -> None:
        """
        Wait until the client takes more.
        """
        while self._paused:
            await self._bell.wait()

    def pauseProducing(self) -> None:
        self._paused = True
        self._acked = self._bytes_acked()
        if self._watch is None:
            self._watch = self._timer.callLater(self._patience, self._look)

    def resumeProducing(self) -> None:
        self._paused = False
        self._stop_watching()
        self._bell.ring()

    def stopProducing(self) -> None:
        """
        The connection is lost; whoever answers is cancelled by that.
        """
        self._stop_watching()

    def _look(self) -> None:
        self._watch = None
        acked = self._bytes_acked()
        if acked == self._acked:
            # It takes nothing, so it will not notice how this ends: no need to be gentle.
            channel = self._request.channel
            if channel is not None:
                channel.forceAbortClient()
            return
        self._acked = acked
        self._watch = self._timer.callLater(self._patience, self._look)

    def _bytes_acked(self) -> int:
        """
        How many bytes the client's machine has taken on this connection, as far as the kernel tells.
        """
        transport: Any = getattr(self._request.channel, "transport", None)
        try:
            handle = transport.getHandle()
            told = handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
            return int(_BYTES_ACKED.unpack_from(told, _BYTES_ACKED_AT)[0])
        except (AttributeError, OSError, struct.error):
            return 0  # not TCP, or not Linux: then only a buffer that empties counts as progress

    def _stop_watching(self) -> None:
        if self._watch is not None and self._watch.active():
            self._watch.cancel()
        self._watch = None

    def _stop_streaming(self) -> None:
        self._stop_watching()
        if self._streaming:
            self._streaming = False
            self._request.unregisterProducer()
