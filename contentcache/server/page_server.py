"""
An HTTP server for the operator: complete requests, and responses that are in memory.

It is twisted.web's requests alone: its resources, and a framework of routes over them, would take a twentieth of
the memory of an idle daemon.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, cast

from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, HTTPFactory, Request, datetimeToString

from contentcache.core.ports import Timer
from contentcache.server.errors import NOSNIFF, reason_phrase

TEXT: Final = "text/plain; charset=utf-8"
#: Bytes of a request's body.
_LONGEST_BODY: Final = 64 << 10
_NOSNIFF: Final = tuple(word.encode("ascii") for word in NOSNIFF)


@frozen
class Page:
    """A response."""

    status: int
    media_type: str
    body: bytes
    headers: Mapping[str, str] = {}


#: Answers a request.
Responder = Callable[[Request], Awaitable[Page]]


class _PageRequest(Request):
    """A complete request."""

    channel: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        name, value = NOSNIFF
        self.responseHeaders.setRawHeaders(name, [value])

    def handleContentChunk(self, data: bytes) -> None:
        """Read the body, and refuse one that nothing here needs."""
        content: Any = self.content
        if content.tell() + len(data) > _LONGEST_BODY:
            self.channel.refuse()
            return
        super().handleContentChunk(data)

    def process(self) -> None:
        """Start the response, which a client that disconnects cancels."""
        response = Deferred.fromCoroutine(self.channel.factory.answer(self))
        self.notifyFinish().addErrback(lambda _left: response.cancel())
        response.addErrback(Failure.trap, CancelledError)


class _PageChannel(HTTPChannel):
    """A connection."""

    requestFactory = _PageRequest

    def _respondToBadRequestAndDisconnect(self) -> None:
        """Twisted's response to what is not HTTP."""
        self.refuse()

    def refuse(self) -> None:
        """Respond with 400, with the header that all responses have, and disconnect."""
        transport: Any = self.transport
        transport.write(b"HTTP/1.1 400 Bad Request\r\n%b: %b\r\n\r\n" % _NOSNIFF)
        transport.loseConnection()


class PageServer(HTTPFactory):
    """Sends what ``respond(request)`` returns, without an access log."""

    noisy = False
    protocol: Any = _PageChannel
    _log = Logger()

    def __init__(self, respond: Responder, reactor: Timer) -> None:
        super().__init__(reactor=cast("Any", reactor))
        self._respond = respond

    async def answer(self, request: Request) -> None:
        """Send the response, or an error."""
        try:
            page = await self._respond(request)
        except CancelledError:
            raise
        except Exception:  # noqa: BLE001  # monitoring should see that something is wrong
            self._log.failure("debug page failed", path=request.path.decode("latin-1"))
            page = Page(500, TEXT, b"this page has failed; the log says why\n")
        request.setResponseCode(page.status, reason_phrase(page.status).encode("ascii"))
        for name, value in page.headers.items():
            request.setHeader(name, value)
        request.setHeader("Date", datetimeToString())
        request.setHeader("Content-Type", page.media_type)
        request.setHeader("Content-Length", str(len(page.body)))
        request.write(page.body)
        request.finish()

    def log(self, request: Request) -> None:
        """Nothing."""

    def startFactory(self) -> None:
        """Nothing: there is no log file of Twisted's, and no cached date for it."""

    def stopFactory(self) -> None:
        """Nothing."""
